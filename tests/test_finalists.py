"""Finalists: who they are, that their second measurement decides and is kept, on a real engine where one is needed."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from generated_trials import RULE, cell
from reported import data_of
from rich.console import Console
from small_study import config, prepared, run

from gpuqa import sweep
from gpuqa.config import UserError
from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import Rule
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.records import Answer, Answered, Completion, Pass, Trial
from gpuqa.selection.verdict import Outcome
from gpuqa.study import finalists
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.output import TextOutput

ROWS = [{"sampling__max_tokens": 4 + number, "workload__repeats": 2, "study__finalists": 2} for number in range(3)]


def first_round(*speeds: float) -> list[Trial]:
    """Quiet trials: their repeats lie 1 % around these speeds."""
    return [cell(number, [speed * 0.99, speed, speed * 1.01]) for number, speed in enumerate(speeds)]


@pytest.mark.parametrize(
    ("speeds", "most", "chosen", "left_out"),
    [
        ((100, 1000, 500), 3, [1, 2], 0),  # shown to lead: a win is checked against the next
        ((1000, 998, 500, 999), 3, [0, 3, 1], 0),
        ((1000, 998, 997, 999), 2, [0, 3], 2),
        ((1000, 998), 1, [0], 1),
        ((1000, 998), 0, [], 0),
        ((1000,), 3, [], 0),  # nothing was chosen, so nobody was lucky
    ],
)
def test_finalists_are_the_first_and_those_that_may_be_as_good(speeds, most, chosen, left_out) -> None:
    trials = first_round(*speeds)
    found = finalists.finalists(trials, RULE, {}, most)
    assert ([trials.index(one) for one in found.finalists], found.left_out) == (chosen, left_out)


def test_finalists_are_judged_by_the_goodput_and_the_energy_of_their_passes_so_far() -> None:
    one = replace(cell(1, [1.0, 1.0, 1.0]), setting={"workload": {"slo": {"ttft_ms": None, "tpot_ms": None, "e2e_ms": 1500.0}}})
    said = Completion("答", "stop", 9, 2, 0, False, 0.1, 0.2)
    passes = [
        Pass(Answered([said, said], 2.0, [1.0, late]), place, [], 0.0, 1.0, 1.0, 1.0, energy_j=8.0)
        for place, late in enumerate((1.0, 2.0))
    ]
    answers = [Answer(f"{place}", f"问 {place}", "", "答", 0.4, 0.4, "stop", 2, 1.0) for place in range(2)]
    found = finalists.so_far(one, passes, answers).measurement
    assert found is not None
    assert found.goodput_questions_per_s_repeats == [1.0, 0.5]
    assert found.joules_per_output_token_repeats == [2.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"selection": "goodput"}, "selection.rule: goodput counts the answers that keep limits; give some: 'workload.slo="),
        ({"selection": "cheapest", "engine__args__device": "cpu"}, "selection.rule: cheapest needs GPUs whose energy NVML"),
        (
            {"workload": "load_search", "workload__slo__e2e_ms": 5.0, "study__finalists": 2},
            "study.finalists: got 2, allowed is 0 with workload=load_search",
        ),
        (
            {"workload": "load_search", "workload__slo__e2e_ms": 5.0, "study__finalists": 0, "study__racing": True},
            "study.racing: got True, allowed is false with workload=load_search",
        ),
    ],
)
def test_a_study_that_its_rule_or_its_finalists_do_not_fit_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        sweep.one_study([config(**changes)])
    assert str(refused.value).startswith(told)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of a study of three quiet cells, the first two of them near each other."""
    journal = Journal(tmp_path / "study")
    trials = first_round(1000, 995, 500)
    for one in trials:
        journal.write(one, [])
    journal.write_study([(one.key, one.axes) for one in trials], finalists=2)
    return journal


def measured_again(journal: Journal, *speeds: float) -> None:
    for one, fresh in zip(first_round(*speeds), first_round(*speeds), strict=True):
        journal.write(replace(fresh, key=at_stage(one.key, Stage.finals)), [])


def test_the_second_measurement_decides_and_the_first_stays_visible(journal: Journal) -> None:
    measured_again(journal, 900, 990)
    verdict = finalists.judge(journal.read_study(), RULE, journal).verdict
    assert (verdict.outcome.name, verdict.winner.axes) == ("WIN", {"seqs": "1"})
    numbers = [(one.trial.measurement.chars_per_s, one.trial.measurement.first_round_chars_per_s) for one in verdict.standings]
    assert numbers == [pytest.approx((990, 995), 1e-3), pytest.approx((900, 1000), 1e-3), (pytest.approx(500, 1e-3), None)]
    assert [one.other.axes for one in verdict.comparisons] == [{"seqs": "0"}], (
        "against the other finalist, not against old numbers"
    )
    assert "is the fastest of 2 finalists of 3 eligible trials (of 3)" in verdict.reason
    assert "The finalists were measured again, and that decides; in the first round it had 995 chars/s" in verdict.reason


def test_slower_finalists_still_stand_before_whoever_was_measured_once(journal: Journal) -> None:
    measured_again(journal, 300, 310)
    verdict = finalists.judge(journal.read_study(), RULE, journal).verdict
    assert [one.trial.axes["seqs"] for one in verdict.standings] == ["1", "0", "2"]


def test_without_a_second_measurement_of_all_finalists_the_first_round_decides_and_says_so(journal: Journal) -> None:
    before = finalists.judge(journal.read_study(), RULE, journal).verdict
    measured_again(journal, 900)
    after = finalists.judge(journal.read_study(), RULE, journal).verdict
    assert before.winner == after.winner
    assert before.winner.measurement.first_round_chars_per_s is None
    assert before.reason.endswith(
        "Its finalists were not measured again, so its lead may be luck; a sweep with this rule measures them."
    )
    measured_again(journal, 900, 990)
    other = finalists.judge(journal.read_study(), replace(RULE, rule=Rule.fastest, min_chars_per_s=600), journal).verdict
    assert other.winner.measurement.chars_per_s == pytest.approx(990, 1e-3), (
        "another rule with the same finalists has its second round too"
    )


def test_a_finalist_that_broke_is_out(journal: Journal) -> None:
    measured_again(journal, 900, 990)
    broken = journal.read()[at_stage("1none", Stage.finals)]
    journal.write(replace(broken, measurement=None, error="engine_died: gone"), [])
    verdict = finalists.judge(journal.read_study(), RULE, journal).verdict
    assert verdict.winner.axes == {"seqs": "0"}
    assert verdict.standings[-1].violations == ("failed: engine_died: gone",)


def test_those_who_were_left_out_keep_the_verdict_open(journal: Journal) -> None:
    journal.write(cell(3, [990.0, 1000.0, 1010.0]), [])
    cells = [*journal.read_study(), journal.read()["3none"]]
    journal.write_study([(one.key, one.axes) for one in cells], finalists=2)
    for key, speeds in (("0none", (990, 1000, 1010)), ("3none", (490, 500, 510))):
        journal.write(replace(cell(0, [float(speed) for speed in speeds]), key=at_stage(key, Stage.finals)), [])
    verdict = finalists.judge(journal.read_study(), RULE, journal).verdict
    assert verdict.comparisons[0].shown(RULE)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    left_out = "1 other trial may be as good by the first round and was not measured again (study.finalists)"
    assert f"Not conclusive: {left_out}." in verdict.reason


def test_the_number_of_the_winner_comes_from_passes_that_did_not_choose_it(journal: Journal) -> None:
    measured_again(journal, 900, 990)
    journal.write(replace(cell(1, [940.0, 950.0, 960.0]), key=at_stage("1none", Stage.confirmation)), [])
    judged = finalists.judge(journal.read_study(), RULE, journal)
    assert judged.confirmed.measurement.chars_per_s == pytest.approx(950, 1e-3)
    assert judged.confirmed.measurement.first_round_chars_per_s == pytest.approx(995, 1e-3)
    assert judged.verdict.winner.measurement.chars_per_s == pytest.approx(990, 1e-3), "the finals decided"
    told = (
        "Measured once more after it was chosen it had 950 chars/s (3 repeats on a fresh engine), and that is what is frozen."
    )
    assert judged.verdict.reason.endswith(told)


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_finalists_are_measured_again_in_a_fresh_engine_once_and_frozen_so(
    tmp_path: Path, engines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what starts showed is noted in study.root
    cells, journal = prepared(*ROWS), Journal(tmp_path / "mine")
    console = Console(file=StringIO(), width=200)
    anything = dict.fromkeys(("max_truncated_fraction", "max_empty_fraction"), 1.0)
    rule = replace(cells[0].config.selection, min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0, **anything)
    cells = [replace(one, config=replace(one.config, selection=rule)) for one in cells]
    journal.write_study([(one.key, one.axes) for one in cells], finalists=2)
    outcome, _ = run(cells, journal.study_file.parent)
    sweep.measure_finalists(cells, outcome.trials, journal, TextOutput(console))
    assert engines == ["start", "close"] * 3, "the first round, the finals, the winner once more"
    sweep.measure_finalists(cells, outcome.trials, journal, TextOutput(console))
    assert engines == ["start", "close"] * 3, "and not again"
    assert len((tmp_path / "experiments" / "start_noise.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    again = [known for one in cells if (known := journal.read().get(at_stage(one.key, Stage.finals)))]
    assert len(again) == 2
    assert all(known.measurement.repeats in LOOKS[Unit.rounds] for known in again)
    assert conclude(journal.read_study(), StudyConfig(name="mine", root=str(tmp_path)), rule, journal, TextOutput(console)) == 0
    frozen = yaml.safe_load((tmp_path / "mine" / "frozen.yaml").read_text(encoding="utf-8"))
    fresh = journal.read()[frozen["trial"]].measurement
    assert frozen["measurement"]["chars_per_s_repeats"] == fresh.chars_per_s_repeats
    first = {one.measurement.chars_per_s for one in outcome.trials}
    assert frozen["measurement"]["first_round_chars_per_s"] in first
    winner = next(cell for cell in data_of(tmp_path / "mine")["cells"] if cell["status"] == "winner")
    assert set(winner["stages"]) == {"first", "again", "confirmed"}
    assert winner["stages"]["confirmed"]["numbers"]["chars_per_s"] == pytest.approx(fresh.chars_per_s)
