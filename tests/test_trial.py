"""From passes to a trial: which of them count for what, and which overrides are said to have run."""

from __future__ import annotations

from dataclasses import replace

from small_study import config

from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import trial_of
from gpuqa.records import Answered, Completion, Override, Pass, Question

QUESTIONS = [Question("0", "一？", "答一"), Question("1", "二？", "答二")]
BURST = Override("scheduler", "burst", "burst", version="0123456789abcdef")
BURST_OFF = Override("scheduler", "burst", "default", "a request has a stop string")
PLAIN = Override("attention", "default", "default")


def measured(*overrides: Override, repeat: int = 0, prefix_cached: bool = False) -> Pass:
    """A pass that nobody measured."""
    said = [Completion(f"答{repeat}", "stop", 9, 2, 0, False, 0.1, 0.2) for _ in QUESTIONS]
    answered = Answered(said, 1.0 + repeat, [1.0, 1.0])
    return Pass(answered, repeat, ["0", "1"], 1.7e9, 1.0, 0.1, 0.5, prefix_cached, overrides=list(overrides))


def cell() -> Cell:
    return Cell(config(), {}, QUESTIONS, [], {})


def test_an_override_that_was_off_in_any_pass_is_off_in_the_trial() -> None:
    always, _ = trial_of(cell(), [measured(BURST, PLAIN), measured(BURST, PLAIN, repeat=1)])
    assert always.overrides == [BURST, PLAIN]
    for passes in ([BURST, BURST_OFF], [BURST_OFF, BURST]):
        trial, _ = trial_of(cell(), [measured(override, PLAIN, repeat=place) for place, override in enumerate(passes)])
        assert trial.overrides == [BURST_OFF, PLAIN]
    limited = replace(BURST, reason="an answer was streamed")
    for passes in ([BURST, limited], [limited, BURST]):
        trial, _ = trial_of(cell(), [measured(override, repeat=place) for place, override in enumerate(passes)])
        assert trial.overrides == [limited]
    warm_off, _ = trial_of(cell(), [measured(BURST), measured(BURST_OFF, prefix_cached=True)])
    assert warm_off.overrides == [BURST_OFF]
    none, _ = trial_of(cell(), [measured()])
    assert none.overrides == []


def test_speeds_come_from_cold_passes_and_answers_from_the_first_of_them() -> None:
    trial, answers = trial_of(cell(), [measured(prefix_cached=True), measured(), measured(repeat=1)])
    assert trial.measurement is not None
    assert (trial.measurement.repeats, trial.measurement.prefix_cached_repeats) == (2, 1)
    assert trial.measurement.chars_per_s_repeats == [4.0, 2.0]
    assert [answer.answer for answer in answers] == ["答0", "答0"]
    assert replace(trial, measurement=None) == replace(cell().trial(None), overrides=[])
