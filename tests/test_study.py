"""Studies on real engines: who shares one, what is kept, what is tried again, and what a failure costs.

The transformers backend runs the embedded model here, because it starts in a moment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from any_measurement import any_measurement
from small_study import BARE, KEYWORDS, NARROW, Recorder, config, die, prepared, run

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.paths import PACKAGE
from gpuqa.engines.transformers_engine import TransformersEngine
from gpuqa.measure.cell import Cell
from gpuqa.measure.failures import explained
from gpuqa.pipeline.dataset import read_questions
from gpuqa.pipeline.pipeline import BUILTIN_WARMUP, encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.pipeline.sampling import stop_token_ids
from gpuqa.records import Generation, Trial
from gpuqa.study import study
from gpuqa.study.grid import in_order
from gpuqa.study.journal import Journal

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]

QUESTIONS = PACKAGE / "embedded" / "questions"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], Path, study.Outcome, Recorder]:
    """A study of three cells on two engines, the first and the third on one."""
    folder = tmp_path_factory.mktemp("measured")
    cells = prepared(BARE, NARROW, KEYWORDS)
    return (cells, folder, *run(cells, folder))


# Which cells share an engine, and which are the same trial


def cell(**axes: Any) -> Cell:
    """A cell with nothing read from the disk, for its keys."""
    return Cell(config(**{"engine": "vllm_cpu", **axes}), {}, [], [], {"digests": {"weights": "w"}, "versions": {"torch": "2"}})


SHARED = [
    {"prompt": "structured"},
    {"sampling__temperature": 0.7},
    {"sampling__max_tokens": 9},
    {"workload": "serial"},
    {"workload__repeats": 5},
    {"dataset": "embedded_train"},
    {"selection__min_rouge_l_f1_judge": 0.1},
    {"study__name": "other"},
]
ALONE = [
    {"quantization": "fp8_per_channel"},
    {"engine__args__max_num_seqs": 7},
    {"engine__args__max_model_len": 512},
    {"engine__env__OMP_NUM_THREADS": "2"},
    {"model__path": "elsewhere"},
    {"model__trust_remote_code": True},
]


@pytest.mark.parametrize("axes", SHARED, ids=str)
def test_cells_that_differ_in_what_no_engine_is_started_with_share_one(axes):
    assert study.group_by_engine([cell(), cell(**axes)]) == [[cell(), cell(**axes)]]


@pytest.mark.parametrize("axes", ALONE, ids=str)
def test_cells_that_differ_in_what_an_engine_is_started_with_do_not_share_one(axes):
    assert study.group_by_engine([cell(), cell(**axes)]) == [[cell()], [cell(**axes)]]


def test_groups_and_their_cells_keep_the_order_of_their_first_appearance():
    cells = [cell(quantization=name, prompt=prompt) for prompt in ("bare", "expert") for name in ("none", "fp8", "fp8_kv")]
    assert study.group_by_engine(cells) == [[cells[0], cells[3]], [cells[1], cells[4]], [cells[2], cells[5]]]


def test_a_trial_that_is_kept_has_the_data_sheet_that_was_asked_for_last(measured):
    _, folder, _, _ = measured
    cells = prepared(*({**axes, "gpu": "h200"} for axes in (BARE, NARROW, KEYWORDS)))
    kept = study.kept_trials(cells, Journal(folder), racing=False)
    assert [kept[cell.key].setting["gpu"]["name"] for cell in cells] == ["h200"] * 3


NOT_MEASURED_BY = ({"selection__min_rouge_l_f1_judge": 0.1}, {"study__name": "other"}, {"dataset": "embedded_train"})


@pytest.mark.parametrize(
    "axes", [axes for axes in SHARED + ALONE if axes not in (*NOT_MEASURED_BY, {"model__path": "elsewhere"})], ids=str
)
def test_whatever_may_change_a_number_makes_another_trial(axes):
    assert cell(**axes).key != cell().key


@pytest.mark.parametrize("axes", [{"selection__min_rouge_l_f1_judge": 0.1}, {"study__name": "other"}, {"gpu": "h200"}], ids=str)
def test_another_rule_study_name_or_data_sheet_makes_no_other_trial(axes):
    assert cell(**axes).key == cell().key


def test_other_weights_versions_or_questions_make_another_trial():
    known = [
        {"digests": {"weights": "w"}, "versions": {"torch": "2"}},
        {"digests": {"weights": "x"}, "versions": {"torch": "2"}},
        {"digests": {"weights": "w"}, "versions": {"torch": "3"}},
    ]
    keys = {Cell(config(), {}, [], [], identity).key for identity in known}
    assert len(keys) == 3
    limits = prepared({"dataset__limit": 1}, {"dataset__limit": 2})
    assert limits[0].fingerprint["digests"]["dataset"] != limits[1].fingerprint["digests"]["dataset"]  # type: ignore[index]
    assert Cell(config(), {"prompt": "bare"}, [], [], known[0]).key == Cell(config(), {}, [], [], known[0]).key


# Running


def answers(folder: Path, one: Cell, field: str = "answer") -> list[str]:
    """One field of every line in a trial's file of answers."""
    lines = Journal(folder).answers_file(one.key).read_text(encoding="utf-8").split("\n")
    return [json.loads(line)[field] for line in lines if line]


def test_an_engine_starts_once_a_group_and_trials_come_in_the_order_of_the_cells(measured):
    cells, _, outcome, recorder = measured
    assert recorder.starts == [cells[0].axes, cells[1].axes]
    assert sorted(recorder.measured[:2], key=str) == [cells[0].axes, cells[2].axes]  # group by group
    assert recorder.measured[2:] == [cells[1].axes]
    assert [trial.key for trial in outcome.trials] == [one.key for one in cells]
    assert (outcome.engine_starts, outcome.kept) == (2, 0)


def test_a_trial_says_what_was_measured_and_its_answers_are_kept(measured):
    cells, folder, outcome, _ = measured
    for one, trial in zip(cells, outcome.trials, strict=True):
        assert trial.error is None
        assert (trial.measurement.questions, trial.measurement.repeats) == (2, 1)
        assert trial.measurement.output_tokens == 16
        assert trial.pipeline == one.config.as_dict()
        assert answers(folder, one, "question") == [question.text for question in one.questions]
    bare, narrow, keywords = (answers(folder, one) for one in cells)
    assert all(bare)
    assert bare == narrow  # padding in a batch changes no answer
    assert bare != keywords  # each cell has its own prompt on the shared engine


def test_a_second_run_keeps_everything_and_starts_no_engine(measured, engines):
    cells, folder, first, _ = measured
    outcome, recorder = run(prepared(BARE, NARROW, KEYWORDS), folder)
    assert engines == recorder.starts == recorder.measured == []
    assert recorder.kept == [one.axes for one in cells]
    assert outcome == study.Outcome(first.trials, engine_starts=0, kept=3)


def test_a_later_command_measures_only_its_new_cells_and_names_the_kept_ones_its_own_way(measured, engines):
    _, folder, first, _ = measured
    more = {"prompt": "expert", "engine__args__batch_size": 1}
    outcome, recorder = run(prepared(more, {**KEYWORDS, "dataset__limit": 2}, NARROW), folder)
    assert engines == ["start", "close"]
    assert recorder.measured == [{key: str(value) for key, value in more.items()}]
    assert [trial.measurement for trial in outcome.trials[1:]] == [first.trials[2].measurement, first.trials[1].measurement]
    assert outcome.trials[1].axes == {"prompt": "keywords", "dataset__limit": "2"}
    assert (outcome.engine_starts, outcome.kept) == (1, 2)


def test_an_engine_that_does_not_start_fails_its_group_once_and_is_tried_again_next_time(tmp_path, engines):
    bad = {"engine__args__attn_implementation": "no_such_attention"}
    rows = ({**BARE, **bad}, BARE, {**KEYWORDS, **bad})
    outcome, recorder = run(prepared(*rows), tmp_path)
    first, good, third = outcome.trials
    assert "no_such_attention" in first.error
    assert first.error == third.error
    assert first.measurement is third.measurement is None
    assert good.error is None
    assert outcome.engine_starts == len(recorder.starts) == 2
    assert engines == ["start", "start", "close"]
    again, recorder = run(prepared(*rows), tmp_path)
    assert recorder.kept == [good.axes]
    assert recorder.measured == [first.axes, third.axes]
    assert (again.engine_starts, again.kept) == (1, 1)


def test_a_cell_that_takes_too_long_gets_its_error_and_the_others_a_new_engine(tmp_path, engines):
    slow = {"prompt": "expert", "workload__answer_timeout_s": 0.001}
    cells = prepared(BARE, slow, KEYWORDS)
    outcome, recorder = run(cells, tmp_path)
    told = explained("no answer within workload.answer_timeout_s=0.001 s")
    assert [trial.error for trial in outcome.trials] == [None, told, None]
    assert [trial.measurement is None for trial in outcome.trials] == [False, True, False]
    needed = 1 if in_order(cells, 0)[-1].key == cells[1].key else 2  # nobody waits for a new one behind the last
    assert len(recorder.starts) == needed
    assert engines == ["start", "close"] * needed
    assert {trial.key: trial.error for trial in outcome.trials} == {
        key: trial.error for key, trial in Journal(tmp_path).read().items()
    }


def break_down(
    monkeypatch: pytest.MonkeyPatch, max_tokens: int, instead: Callable[[int], list[Generation]], questions: int | None = None
) -> None:
    """A fake: the real engine, but it breaks on the cell with these `max_tokens`, since a real one does so too rarely.

    With `questions` it breaks on batches of so many only: two are measured, a warm-up has one and then many.
    """
    real = TransformersEngine.generate

    async def generate(self: TransformersEngine, prompts: Any, sampling: Any, stop: Any, finished: Any) -> list[Generation]:
        if sampling.max_tokens != max_tokens or questions not in (None, len(prompts)):
            return await real(self, prompts, sampling, stop, finished)
        finished.update(enumerate(instead(len(prompts))))
        return list(finished.values())

    monkeypatch.setattr(TransformersEngine, "generate", generate)


def refuse(count: int) -> list[Generation]:
    return [Generation(error="E: refused")] * count


@pytest.mark.parametrize(
    ("instead", "questions", "told"),
    [
        (die, None, "the engine process died"),
        (die, 2, "the engine process died"),
        (refuse, None, "every warm-up question failed, the first with E: refused"),
        (refuse, 2, "every question failed, the first with E: refused"),
    ],
    ids=["dies in the warm-up", "dies in a pass", "refuses the warm-up", "refuses a pass"],
)
def test_a_cell_that_breaks_in_the_middle_is_a_failed_trial_and_is_tried_again_next_time(
    tmp_path, engines, instead, questions, told
):
    rows = ({"sampling__max_tokens": 4}, {"sampling__max_tokens": 5}, {"sampling__max_tokens": 6})
    with pytest.MonkeyPatch.context() as patch:
        break_down(patch, 5, instead, questions)
        outcome, _ = run(prepared(*rows), tmp_path)
    assert [trial.error for trial in outcome.trials] == [None, explained(told), None]
    assert [trial.measurement is None for trial in outcome.trials] == [False, True, False]
    tries = 2 if instead is die else 1  # only where the engine itself died
    possible = [["start", "close"] * (tries + 1), ["start", "close"] * tries]  # no new one where it breaks as the last
    assert engines in possible
    again, recorder = run(prepared(*rows), tmp_path)
    assert recorder.measured == [{"sampling__max_tokens": "5"}]
    assert [trial.error for trial in again.trials] == [None, None, None]
    assert [again.trials[0], again.trials[2]] == [outcome.trials[0], outcome.trials[2]]
    assert Journal(tmp_path).read()[again.trials[1].key].measurement == again.trials[1].measurement


def test_when_the_only_cell_breaks_it_is_tried_once_more_and_then_no_engine_starts_for_nothing(tmp_path, engines, monkeypatch):
    break_down(monkeypatch, 5, die)
    outcome, _ = run(prepared({"sampling__max_tokens": 5}), tmp_path)
    assert engines == ["start", "close"] * 2
    assert outcome.engine_starts == 2


def test_a_study_that_is_stopped_closes_its_engine_and_keeps_what_it_measured(tmp_path, engines):
    class Stops(Recorder):
        def trial_done(self, trial: Trial, kept: bool) -> None:
            raise KeyboardInterrupt

    journal = Journal(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(study.run(prepared(BARE, KEYWORDS), journal, Stops(journal)))
    assert engines == ["start", "close"]
    outcome, _ = run(prepared(BARE, KEYWORDS), tmp_path)
    assert outcome.kept == 1


# What is refused before anything runs


REFUSED = {
    "an argument that the engine does not have": ({"engine__args__batchsize": 4}, "engine.args.batchsize: .*batch_size"),
    "a quantization that the engine does not have": ({"quantization": "fp8"}, "quantization"),
    "a stop that is no token": ({"sampling__stop": ["<|stop here|>"]}, "sampling.stop: got '<|stop here|>', .*<.im_end.>"),
    "a prompt that leaves no room": ({"prompt": "structured", "engine__args__max_model_len": 40}, "prompt=structured takes"),
    "a model that is not there": ({"model__path": "no/such/model"}, "model.path: 'no/such/model' does not exist"),
    "questions that are not there": ({"dataset__path": "no.json"}, "dataset.path: 'no.json' does not exist"),
    "warm-up questions that are not there": ({"model__warmup": "no.json"}, "model.warmup: 'no.json' does not exist"),
    "a cell that is there already": ({"prompt": "bare"}, "same configuration"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_cell_is_refused_while_nothing_runs(case, engines):
    axes, told = REFUSED[case]
    with pytest.raises(UserError, match=told.replace("|", r"\|")):
        prepared(BARE, KEYWORDS, axes)
    assert engines == []


def test_the_command_refuses_a_bad_last_cell_before_it_measures_the_first(command, tmp_path):
    axes = ["prompt=bare,structured", "engine.args.max_model_len=300", "sampling.max_tokens=256", "workload.repeats=1"]
    done = command("sweep", "experiment=none", "engine=transformers", "study.name=mine", *axes, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: prompt=structured takes ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_reach_the_model_as_the_same_tokens_are_refused_with_both_names() -> None:
    twin = {"prompt": "bare", "prompt__name": "twin"}
    with pytest.raises(
        UserError, match="prompt: 'bare' and 'twin' come out of the chat template of model=embedded as the same"
    ):
        prepared(BARE, twin)
    treated = prepared(BARE, {**twin, "prompt__postprocess__one_line": not config(**BARE).prompt.postprocess.one_line})
    assert len(treated) == 2, "what is made of the answers tells them apart"


def test_a_cell_is_known_by_its_prompts_tokens_and_notes_its_models_revision() -> None:
    bare, keywords, released = prepared(BARE, KEYWORDS, {**NARROW, "model__download__repository": "some/model"})
    tokens = [one.fingerprint["digests"]["prompt_tokens"] for one in (bare, keywords, released)]  # type: ignore[index]
    assert tokens[0] == tokens[2] != tokens[1]
    assert [one.fingerprint["revision"] for one in (bare, keywords, released)] == [None, None, "main"]
    assert replace(bare, fingerprint={**bare.fingerprint, "digests": {"prompt_tokens": "other"}}).key != bare.key


def test_a_template_file_and_the_end_tokens_are_frozen_as_what_they_held(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}] ${m} {{ m.content }}\n{% endfor %}[answer]", encoding="utf-8")
    text = file.read_text(encoding="utf-8")
    [cell] = prepared({**BARE, "prompt__template": str(file)})
    file.unlink()
    trial = replace(cell.trial(None), measurement=any_measurement())
    frozen.freeze(frozen.Winner(trial, []), cell.config.selection, "it is alone", tmp_path / "frozen.yaml")
    content = frozen.read(tmp_path / "frozen.yaml")
    pipeline = frozen.pipeline_config(content, tmp_path / "frozen.yaml")
    assert (pipeline.prompt.template, content["stop_token_ids"]) == (text, [4093, 4091])
    tokenizer = load_tokenizer(pipeline.model)
    assert tokenizer.convert_ids_to_tokens([4093, 4091]) == ["<|im_end|>", "<|endoftext|>"]
    assert frozen.digest_mismatches(content, {"prompt_tokens": encoder_for(tokenizer, pipeline).digest}) == []
    assert frozen.stop_mismatches(content, stop_token_ids(tokenizer, pipeline)) == []


def test_where_the_same_weights_came_from_makes_no_other_trial() -> None:
    [bare] = prepared(BARE)
    [released] = prepared({**BARE, "model__download__repository": "some/model", "model__note": "a demonstration"})
    moved = replace(bare, config=replace(bare.config, model=replace(bare.config.model, path="elsewhere")))
    assert bare.key == released.key == moved.key
    assert replace(bare, fingerprint={**bare.fingerprint, "revision": "v2"}).key == bare.key


# Warm-up


def texts_of(file: Path) -> set[str]:
    return {question.text for question in read_questions(file)}


def test_cells_warm_up_with_the_models_questions_which_are_not_the_measured_ones():
    [one] = prepared({"dataset__limit": None})
    assert set(one.warmup) == texts_of(QUESTIONS / "warmup.json")
    assert not set(one.warmup) & {question.text for question in one.questions}


@pytest.mark.parametrize("warmup", ["gpuqa/embedded/questions/test.json", "gpuqa/embedded/questions/warmup.json", None])
@pytest.mark.parametrize("measured_builtins", [0, 1, len(BUILTIN_WARMUP) - 1])
def test_warm_up_never_holds_a_measured_question(tmp_path, warmup, measured_builtins):
    measured = [*sorted(texts_of(QUESTIONS / "test.json")), *BUILTIN_WARMUP[:measured_builtins]]
    rows = [{"id": str(place), "question": text, "answer": "答"} for place, text in enumerate(measured)]
    (tmp_path / "questions.json").write_text(json.dumps(rows), encoding="utf-8")
    [one] = prepared({"dataset__path": str(tmp_path / "questions.json"), "dataset__limit": None, "model__warmup": warmup})
    assert len(one.questions) == len(measured)
    assert one.warmup
    assert sorted(set(one.warmup) & set(measured)) == []
