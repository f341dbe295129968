"""Find, prove and serve the best configuration of a small LLM that answers GPU/CUDA questions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuqa.config.app import compose_cell as compose_cell
    from gpuqa.config.from_python import compose as compose
    from gpuqa.pipeline.pipeline import Pipeline as Pipeline
    from gpuqa.records import Trial as Trial
    from gpuqa.study.child_study import run as run
    from gpuqa.study.loaded_study import load_study as load_study

__version__ = "0.8.0"
__all__ = ["Pipeline", "Trial", "compose", "compose_cell", "load_study", "run"]
HOMES = {  # name -> the module that has it; imported when somebody asks for it, since some take seconds
    "compose": "gpuqa.config.from_python",
    "compose_cell": "gpuqa.config.app",
    "load_study": "gpuqa.study.loaded_study",
    "run": "gpuqa.study.child_study",
    "Pipeline": "gpuqa.pipeline.pipeline",
    "Trial": "gpuqa.records",
}


def __getattr__(name: str) -> Any:
    """The public API for scripts and notebooks.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in HOMES:
        raise AttributeError(f"module 'gpuqa' has no attribute {name!r}; it has {', '.join(HOMES)}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    """The names of the module, those of the API among them, for an interpreter's completion."""
    return sorted({*globals(), *__all__})
