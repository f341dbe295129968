"""The leaderboard in a terminal of 80 columns: what each trial is called, its numbers, and one word for how it ended."""

from __future__ import annotations

import itertools
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from any_measurement import any_measurement
from generated_trials import RULE, cell
from omegaconf import OmegaConf
from rich.console import Console

from gpuqa.config.app import introduce_to_hydra
from gpuqa.config.paths import conf_folder
from gpuqa.records import Dropped, Trial
from gpuqa.selection.decision import decide
from gpuqa.selection.verdict import Verdict
from gpuqa.study.terminal_table import print_table


def trial(axes: dict[str, str], speed: float = 100.0, error: str | None = None, **numbers: Any) -> Trial:
    made = replace(cell(1, [speed] * 2, **numbers), key=" ".join(axes.values()) or "only", axes=axes)
    return replace(made, measurement=None, error=error) if error else made


def printed(verdict: Verdict, width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    print_table(verdict, "Study s", RULE, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def default_axes() -> dict[str, list[str]]:
    introduce_to_hydra()  # it names what follows the machine
    params = OmegaConf.load(conf_folder() / "experiment" / "embedded.yaml").hydra.sweeper.params
    return {key: value.split(",") for key, value in params.items()}


@pytest.mark.parametrize("width", [80, 300])
def test_the_table_of_the_default_study_fits_eighty_columns_and_cuts_nothing(width: int) -> None:
    axes = default_axes()
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    trials = [trial(names, 123456.0 + place) for place, names in enumerate(cells)]
    trials[-1] = trial(cells[-1], error="it failed with a very long reason " * 9)
    verdict = decide(trials, RULE)
    lines = printed(verdict, width)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    heads = [key.rpartition(".")[2] for key in axes]
    head = next(line for line in lines if "verdict" in line).split()
    assert head == ["#", *heads, "chars/s", "±MAD", "judge", "ROUGE-L", "verdict"]
    shown = [row[1:] for line in lines if (row := line.split()) and row[0].isdigit()]
    assert [row[: len(axes)] for row in shown] == [list(one.trial.axes.values()) for one in verdict.standings]
    assert shown[0][len(axes) : len(axes) + 4] == ["123,470", "±0.0%", "0.400", "0.400"]
    assert shown[-1][len(axes) :] == ["failed"]


def test_axes_that_need_more_room_share_a_column_and_what_is_long_is_folded() -> None:
    axes = {f"engine.args.a_rather_long_argument_{letter}": "a-value-of-twenty-xx" for letter in "abcd"}
    lines = printed(decide([trial(axes), trial({**axes, "prompt": "bare"}, 50.0)], RULE))
    assert max(map(len, lines)) <= 80
    assert "".join("".join(lines).split()).count("a-value-of-twenty-xx") >= 4, "nothing is cut"


def test_each_trial_has_one_word_or_the_constraint_that_it_violates() -> None:
    rule = replace(RULE, min_rouge_l_f1_of_best=0.0, max_e2e_latency_ms_p95=900.0)
    trials = [
        replace(cell(1, [200.0, 201.0, 199.0, 200.0]), axes={"n": "first"}),
        replace(cell(2, [100.0, 101.0, 99.0, 100.0]), axes={"n": "slow"}),
        replace(cell(3, [900.0] * 4, rouge_l_f1_judge=0.1), axes={"n": "poor"}),
        replace(cell(4, [800.0] * 4, e2e_latency_ms_p95=1234.5), axes={"n": "late"}),
        replace(cell(5, [700.0] * 4, answers_empty=30.0), axes={"n": "empty"}),
        replace(cell(6, [1.0] * 4), axes={"n": "broken"}, measurement=None, error="oops"),
    ]
    dropped = Dropped("too slow", any_measurement(throttle_reasons=[]), "race")
    trials.append(replace(cell(7, [1.0] * 4), axes={"n": "left"}, measurement=None, dropped=dropped))
    verdict = decide(trials, rule)
    last = {line.split()[1]: line for line in printed(verdict) if line.split()[:1] and line.split()[0].isdigit()}
    assert verdict.outcome is not None
    assert last["first"].rstrip().endswith(verdict.outcome.value)
    assert last["slow"].rstrip().endswith(" 50.0% behind")
    assert last["poor"].rstrip().endswith(" judge 0.1000 < 0.15")
    assert last["late"].rstrip().endswith(" p95 > 900 ms")
    assert " empty 30.0% > " in last["empty"]
    assert last["broken"].rstrip().endswith(" failed")
    assert last["left"].rstrip().endswith(" dropped")
    assert "(" in last["left"], "its numbers are not of all questions"


def test_a_gpu_that_was_held_back_and_a_drift_are_told_at_the_table() -> None:
    moments = [[100.0 * repeat + place for repeat in range(3)] for place in range(8)]
    trials = [
        replace(cell(place, [120.0, 100.0, 80.0], repeats_began_at=row, throttle_reasons=reasons), axes={"n": str(place)})
        for place, (row, reasons) in enumerate(zip(moments, [["sw_thermal_slowdown"], *[["gpu_idle"]] * 7], strict=True))
    ]
    lines = printed(decide(trials, RULE), 200)
    assert sum("100!" in line or "99!" in line or "98!" in line for line in lines) == 1, "an idle GPU was not held back"
    assert "! the GPU was held back (sw_thermal_slowdown)" in " ".join(" ".join(lines).split())
    assert "Speeds drifted by -" in " ".join(lines)


@pytest.mark.parametrize("value", ["[16]", "[bold]", "[/bold]", "[a,b]", "['<|im_end|>']", ":smile:"])
def test_an_axis_value_is_shown_as_it_was_typed(value: str) -> None:
    assert any(value in line for line in printed(decide([trial({"sampling.stop": value})], RULE)))


@pytest.mark.parametrize("axes", [{}, {"prompt": "bare"}])
def test_a_study_of_one_cell_has_a_table_too(axes: dict[str, str]) -> None:
    lines = printed(decide([trial(axes, 77.0)], RULE))
    assert sum("77" in line.split() for line in lines) == 1
