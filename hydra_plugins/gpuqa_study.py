"""The Hydra sweeper that makes a study: the task runs once, with all cells.

Hydra's own sweepers run the task once a cell, often in a process of its own. A study wants the opposite: no engine
starts while any cell is still wrong, and cells that share an engine share its start. So `StudySweeper` expands the
axes as Hydra's basic sweeper does (comma lists, `range()`, `choice()`, `glob()`, `hydra.sweeper.params`) and hands the
task function what composes each cell. The task calls it: a cell takes a tenth of a second, and a study that is wrong can be
refused after a few.

Hydra finds this module by its folder, `hydra_plugins`, and executes it before it is in `sys.modules`: annotations of
the dataclass below must not be strings, hence no `from __future__ import annotations` here.
"""

import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, RangeSweep
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class StudySweeperConfig:
    """`hydra.sweeper`: the axes of an experiment, each overridden by the same key on the command line."""

    _target_: str = "hydra_plugins.gpuqa_study.StudySweeper"
    params: dict[str, Any] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConfig, provider="gpuqa")


class StudySweeper(Sweeper):
    """Calls the task function once, with a mapping: the overrides of each cell -> the function that composes its config."""

    def __init__(self, params: dict[str, Any] | None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what `sweep` needs; Hydra calls this once."""
        self._composed_by = hydra_context.config_loader
        self._task = task_function
        self._main_config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Give the task one cell for each combination of the axes; the last axis changes fastest."""
        loader = self._composed_by
        axes = [f"{key}={'null' if value is None else value}" for key, value in self.params.items()] + arguments
        choices: dict[str, list[str]] = {}
        for override in OverridesParser.create(config_loader=loader).parse_overrides(axes):
            key = override.get_key_element()
            choices.pop(key.lstrip("+"), None)  # a later override also takes the later place, as on a plain command line
            choices[key.lstrip("+")] = values_of(override, key)
        return self._task({cell: partial(self._compose, cell) for cell in itertools.product(*choices.values())})

    def _compose(self, cell: tuple[str, ...]) -> DictConfig:
        """The config of one cell."""
        try:
            return self._composed_by.load_sweep_config(self._main_config, list(cell))
        except ValueError as error:  # Hydra's plain one about an option that is a number names neither group nor value
            raise HydraException(f"{' '.join(cell)}: {error}") from error


def values_of(override: Override, key: str) -> list[str]:
    """All values of one axis, written as overrides."""
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise HydraException(
            f"{override.input_line}: a study needs a finite list of values, e.g. {key}=1,2 or {key}=range(1,9,2)"
        )
    axis = override.value()
    if isinstance(axis, RangeSweep):
        if not axis.step:
            raise HydraException(f"{override.input_line}: the step of a range must not be 0, e.g. {key}=range(1,9,2)")
        add_up_as_written(axis)
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise HydraException(f"{override.input_line}: this axis has no value")
    plain = [value.text if isinstance(value, QuotedString) else value for value in override.sweep_iterator()]
    if repeated := [value for place, value in enumerate(plain) if value in plain[:place]]:
        raise HydraException(f"{key}: the axis has {repeated[0]!r} twice; list every value once")
    return values


def add_up_as_written(axis: RangeSweep) -> None:
    """Let a range with a fraction add decimals, so that range(0.1,0.4,0.1) is 0.1, 0.2 and 0.3.

    Hydra adds the binary numbers: it would give 0.30000000000000004, and 0.4 as well, although the stop is not part of a range
    (findings/hydra_float_range_includes_its_stop.sh).
    """
    numbers = axis.start, axis.stop, axis.step
    if any(isinstance(number, float) for number in numbers):
        axis.start, axis.stop, axis.step = (Decimal(str(number)) for number in numbers)  # type: ignore[assignment]
