"""The names of the installed vLLM's engine arguments, read from its source: importing vLLM takes many seconds."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path


def argument_names() -> tuple[str, ...]:
    """The fields of vLLM's `EngineArgs` and `AsyncEngineArgs`; none where vLLM is not installed."""
    spec = importlib.util.find_spec("vllm")
    source = Path(spec.origin if spec and spec.origin else "").parent / "engine" / "arg_utils.py"
    if not source.is_file():
        return ()
    classes = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    bodies = [node.body for node in classes if node.name in ("EngineArgs", "AsyncEngineArgs")]
    fields = [line.target for body in bodies for line in body if isinstance(line, ast.AnnAssign)]
    return tuple(field.id for field in fields if isinstance(field, ast.Name))
