"""A file that may come from somebody else: it is read within bounds, and what of it runs code needs the operator's word."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import UserError

MOST_BYTES = 2**20  # a usual frozen file has 8 KiB
MOST_VALUES = 20_000
DEEPEST = 50
CLASS_NAME = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+")  # "package.module.Class", "module:function"
NAMES_CODE = re.compile(r"(^trust_remote_code$)|(_cls|_class|_plugin|_module|_module_path)$")  # keys of an engine's arguments
HARMLESS_VARIABLES = {  # they set numbers and choices of libraries, and neither name code nor a place where it lies
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_USE_MEGA_AOT_ARTIFACT",
    "VLLM_WORKER_MULTIPROC_METHOD",
}


class Bounded(yaml.SafeLoader):
    """YAML without tags, aliases, and more values or levels than a file of ours has."""

    values = depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), which no frozen file has")
        self.values, self.depth = self.values + 1, self.depth + 1
        if self.values > MOST_VALUES:
            raise yaml.YAMLError(f"it holds more than {MOST_VALUES:,} values")
        if self.depth > DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def text_of(path: Path) -> str:
    """The text of a regular file that is not too large.

    Raises:
        OSError, ValueError: it cannot be read, is no regular file, too large or no UTF-8.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no regular file")  # a pipe may never end
    if about.st_size > MOST_BYTES:
        raise ValueError(f"it has {about.st_size:,} bytes, allowed are at most {MOST_BYTES:,}")
    return path.read_text(encoding="utf-8")


def yaml_of(text: str | bytes) -> Any:
    """What YAML holds, within the bounds of `Bounded`.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is no such YAML.
    """
    return yaml.load(text, Bounded)


def refuse_code(pipeline: Mapping[str, Any], trusted: bool, source: str) -> None:
    """Raise a UserError if a pipeline out of a file would run code that the file chose, unless the operator trusts the file."""
    found = [] if trusted else list(code_in(pipeline))
    if found:
        raise UserError(
            f"{source}: {', '.join(found)[:500]} may run code that whoever wrote the file has chosen; look at it, and if you "
            "trust the file say trust_frozen=true"
        )


def code_in(pipeline: Mapping[str, Any]) -> Iterator[str]:
    """What of a pipeline names code to run, as "key=value"; `pipeline` holds plain values, as in a frozen file."""
    groups = {name: group if isinstance(group, dict) else {} for name, group in pipeline.items()}
    if groups.get("model", {}).get("trust_remote_code"):
        yield "model.trust_remote_code=True"
    for group in ("engine", "quantization"):
        yield from code_in_arguments(groups.get(group, {}).get("args"), f"{group}.args")
    env = groups.get("engine", {}).get("env")
    for name, value in env.items() if isinstance(env, dict) else ():
        if name not in HARMLESS_VARIABLES or not re.fullmatch(r"[\w.,:|-]*", str(value)):
            yield f"engine.env.{name}={value!r:.80}"


def code_in_arguments(value: Any, key: str) -> Iterator[str]:
    """What of an engine's arguments names code: a class by its dotted name, a Python file, or a key that loads one."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if NAMES_CODE.search(str(name)) and inner:
                yield f"{key}.{name}={inner!r:.80}"
            else:
                yield from code_in_arguments(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from code_in_arguments(inner, f"{key}.{place}")
    elif isinstance(value, str) and (CLASS_NAME.fullmatch(value) or value.endswith(".py")):
        yield f"{key}={value!r:.80}"
