"""Compose a study in Python, as its command composes it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from gpuqa.config import check
from gpuqa.config.app import compose as compose_command
from gpuqa.config.app import introduce_to_hydra
from gpuqa.config.cells import Cells
from gpuqa.config.commands import CellConfig, SweepConfig, resolve


def compose(*overrides: str, config_dir: str | Path | None = None) -> list[CellConfig]:
    """All cells of a study, in its order, as `python -m gpuqa.sweep OVERRIDES` composes them; nothing is started.

    `gpuqa.compose_cell` makes a single one and takes no axes.

    Args:
        config_dir: a folder with options of your own, as `--config-dir`.

    Raises:
        UserError: what the command would print, or an argument that is not a text.
    """
    return cells_of("compose", overrides, config_dir).each(lambda config: resolve(config, SweepConfig))


def cells_of(name: str, overrides: Sequence[str], config_dir: str | Path | None) -> Cells:
    """The cells of a study, each composed when it is asked for; `name`: of the function that was called, for its messages.

    Raises:
        UserError: as `compose`.
    """
    for override in overrides:
        check(isinstance(override, str), name, override, f'one text for each override: {name}("prompt=bare,structured")')
        check(not override.startswith("-"), name, override, "overrides, KEY=VALUE; a folder of options is config_dir=FOLDER")
    introduce_to_hydra()
    with as_a_command():
        cells: Cells = compose_command("sweep", overrides, str(config_dir) if config_dir else None)
    return cells


@contextlib.contextmanager
def as_a_command() -> Iterator[None]:
    """Hydra's entry for commands reads `sys.argv` and exits at an error; afterwards this process is as it was before."""
    words, variable, hydra = sys.argv[:], os.environ.get("HYDRA_FULL_ERROR"), GlobalHydra.instance().hydra
    os.environ["HYDRA_FULL_ERROR"] = "1"
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        sys.argv[:], GlobalHydra.instance().hydra = words, hydra
        if variable is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = variable
