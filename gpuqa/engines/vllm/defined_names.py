"""The names that a Python source defines, read without running it: what `compat` compares its tables with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

Defined = Mapping[str, list[str] | None]  # name -> its parameters, "x=" for one with a default; None: it has none to pass
ENTRY = re.compile(r"^(?P<name>[\w.]+)(?:\((?P<parameters>.*)\))?$", re.DOTALL)


def satisfies(entry: str, defined: Defined) -> bool:
    """Whether the name of an entry is defined, and takes the parameters that the entry lists, and needs no other.

    Raises:
        ValueError: the entry is not one.
    """
    if (parts := ENTRY.match(entry)) is None:
        raise ValueError(f"{entry!r} is not an entry: see gpuqa.engines.vllm.compat")
    if parts["name"] not in defined:
        return False
    if parts["parameters"] is None:
        return True
    accepted = defined[parts["name"]]
    return accepted is not None and takes(accepted, [word.strip() for word in parts["parameters"].split(",") if word.strip()])


def takes(accepted: list[str], passed: list[str]) -> bool:
    """Whether a callable with the `accepted` parameters can be called with those `passed`: by position up to "...", then by
    name."""
    positions = passed.index("...") if "..." in passed else len(passed)
    by_position, by_name = passed[:positions], passed[positions + 1 :]
    names = [parameter.rstrip("=") for parameter in accepted]
    needed = {parameter for parameter in accepted if not parameter.endswith("=") and not parameter.startswith("*")}
    return names[:positions] == by_position and set(by_name) <= set(names) and needed <= set(passed)


def defined_names(source: str) -> dict[str, list[str] | None]:
    """Functions, classes, and "Class.name" for everything a class defines: methods, fields, and what methods set on `self`.

    The parameters of a class are those of its `__init__`; without one they are its annotated fields, as in a dataclass.
    """
    names: dict[str, list[str] | None] = {}
    for node in statements(ast.parse(source).body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names[node.name] = parameters(node)
            case ast.ClassDef():
                names[node.name] = None
                names.update({f"{node.name}.{name}": taken for name, taken in class_names(node).items()})
                names[node.name] = names.get(f"{node.name}.__init__") or fields(node)
            case ast.Assign() | ast.AnnAssign():
                names.update(dict.fromkeys(assigned(node)))
    return names


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, those under `if` and `try` among them."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from statements([*node.body, *node.orelse])


def class_names(node: ast.ClassDef) -> dict[str, list[str] | None]:
    """What a class defines, with the parameters of its methods, `self` not among them."""
    names: dict[str, list[str] | None] = {}
    for inner in ast.walk(node):  # what its methods set
        match inner:
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                names[inner.attr] = None
    for inner in statements(node.body):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            names[inner.name] = parameters(inner)[0 if is_static(inner) else 1 :]
        elif isinstance(inner, ast.Assign | ast.AnnAssign):
            names.update(dict.fromkeys(assigned(inner)))
    return names


def is_static(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a method gets neither object nor class."""
    return any(isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in node.decorator_list)


def assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The plain names that an assignment gives a value or a type."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def fields(node: ast.ClassDef) -> list[str]:
    """The annotated fields of a class, as parameters."""
    annotated = [inner for inner in node.body if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)]
    return [f"{assigned(inner)[0]}{'=' if inner.value else ''}" for inner in annotated]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The parameters of a function in their order, "x=" for one with a default, "*x" and "**x" for those that take the rest."""
    positional = [*node.args.posonlyargs, *node.args.args]
    without_default = len(positional) - len(node.args.defaults)
    return [
        *(argument.arg + ("=" if place >= without_default else "") for place, argument in enumerate(positional)),
        *([f"*{node.args.vararg.arg}"] if node.args.vararg else []),
        *(
            argument.arg + ("=" if default else "")
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        ),
        *([f"**{node.args.kwarg.arg}"] if node.args.kwarg else []),
    ]
