"""How every command is entered: Hydra composes, a user's mistake becomes one message and exit code 2."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpuqa.config import UserError, outdated_in
from gpuqa.config.commands import CellConfig, register_schemas, resolve
from gpuqa.config.paths import conf_folder
from gpuqa.machine.files import FileNotWritten
from gpuqa.machine.hardware import processor_flags

USER_ERROR, INTERRUPTED = 2, 130


def vllm_on_this_machine() -> str:
    """The engine option that fits the installed vLLM: `vllm` for the CUDA build, `vllm_cpu` otherwise."""
    installed = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    return "vllm" if "vllm" in installed and "vllm-cpu" not in installed else "vllm_cpu"


def fp8_on_this_machine() -> str:
    """The quantization option with fp8 that does not crawl here: of the KV cache on a CPU with AMX, else of the weights.

    PyTorch gives fp8 matrices to oneDNN on such a CPU, whose reference code takes 58 ms where PyTorch's own takes 0.25 ms on
    others; fp8 KV in turn needs AVX-512 or AMX (experiments/LOG.md).
    """
    return "fp8_kv" if vllm_on_this_machine() == "vllm_cpu" and "amx_int8" in processor_flags() else "fp8_per_channel"


def compose_cell(*overrides: str) -> CellConfig:
    """One cell as `python -m gpuqa.sweep OVERRIDES` composes it, for scripts, notebooks and tests.

    Raises:
        UserError, HydraException: as the command would print it.
    """
    introduce_to_hydra()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return resolve(hydra.compose("sweep", list(overrides)), CellConfig)


def introduce_to_hydra() -> None:
    """Register what the files in conf/ refer to: the schemas, and the options that depend on the machine."""
    register_schemas()
    for option in (vllm_on_this_machine, fp8_on_this_machine):
        OmegaConf.register_new_resolver(option.__name__, option, replace=True)


def run_command(task: Callable[[Any], int], name: str) -> NoReturn:
    """Compose conf/{name}.yaml with the command line, run the task and exit with the code that it returns."""
    introduce_to_hydra()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched but by gpuqa.download
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them with exit code 1
    try:
        sys.exit(task(compose(name)))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        detail = "" if cause is None or str(cause) in str(error) else f"\n{cause}"
        print(f"error: {error}{detail}{outdated_in(' '.join([str(error), *sys.argv[1:]]))}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except FileNotWritten as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def compose(name: str) -> Any:
    """What Hydra makes of conf/{name}.yaml and the command line; ends the process where it only prints (`--help`, `--cfg`)."""
    composed: list[Any] = []
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(composed.append)()
    except ValueError as error:  # Hydra's own word for a group that is set to null
        raise UserError(f"{error}; a group needs the name of an option: {' '.join(sys.argv[1:])}") from error
    if not composed:
        sys.exit(0)
    return composed[0]
