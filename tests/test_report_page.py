"""What the page of a report is made of: data that no text can break out of, in two languages, with no more than finds room."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from reported import NASTY, RULE, Scripts, answer, cell_of, data_of, prompts, text_of, trial

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.metric_table import METRICS
from gpuqa.records import Answer, Conditions, Dropped, Override, Timing, Trial
from gpuqa.selection.decision import decide
from gpuqa.study import report
from gpuqa.study.page.answers import repeats_itself
from gpuqa.study.page.result import Result
from gpuqa.study.run_file import RunFile, SentPrompt

PAGE = Path(report.__file__).parent / "page"
TEXTS = yaml.safe_load((PAGE / "texts.yaml").read_text(encoding="utf-8"))
HOSTILE = [NASTY, "</script><script>document.title = 'broken'</script>", "<!-- <script>", "]]>", "\u2028", "\\u003c/script>"]


def written(folder: Path, *trials: Trial, answers: Any = None, rule: SelectionConfig = RULE, **more: Any) -> Any:
    """The data of the page of these trials."""
    verdict = decide(trials, rule, answers)
    report.write(Result("Study s", verdict, answers or {}, rule=rule, **more), folder)
    return data_of(folder)


def answers_of(text: str, count: int = 3, score: float = 0.5) -> list[Answer]:
    return [replace(answer(f"q{place}", score), answer=text, timings=[Timing(place + 1.0, 0.5, 9)]) for place in range(count)]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_model_a_user_or_an_error_can_leave_its_place_in_the_page(tmp_path: Path, text: str) -> None:
    override = Override("scheduler", text, "default", text)
    good, bad = trial({"prompt": text}, note=text, chars_per_s=9.0), trial({"prompt": "b"}, error=text)
    known = {good.key: [replace(answer("q", 0.5), question=text, reference=text, answer=text)]}
    verdict = decide([replace(good, overrides=[override]), bad], RULE)
    report.write(Result(f"Study {text}", verdict, known, rule=RULE, run=RunFile(text)), tmp_path)
    page = Scripts(text_of(tmp_path))
    assert [tag for tag in page.tags if tag == "script"] == ["script"] * 3
    assert set(page.scripts) == {"data", "texts", ""}, "two of data, one that runs"
    data = data_of(tmp_path)
    assert data["title"] == f"Study {text}"
    assert (data["answers"]["texts"], data["answers"]["questions"][0]["references"]) == ([text], [text])
    assert data["notes"] == [text]
    assert cell_of(data, prompt="b")["sentences"] == [f"failed: {text}"]
    assert cell_of(data, prompt=text)["overrides"][0]["reason"] == text


def test_the_browser_may_run_one_script_only_and_load_nothing(tmp_path: Path) -> None:
    written(tmp_path, *prompts(a=1.0))
    page = text_of(tmp_path)
    digest = base64.b64encode(hashlib.sha256(Scripts(page).scripts[""].encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy.replace("&#39;", "'").replace("&#x3D;", "=")
    elsewhere = [part for part in ("https://", "src=", "@import", "url(") if part in page]
    assert not elsewhere
    assert set(re.findall(r"http://[\w.]+/[\w/]+", page)) == {"http://www.w3.org/2000/svg"}, (
        "the name of SVG, which is no address"
    )


def test_what_is_no_number_and_what_is_no_text_do_not_break_the_page(tmp_path: Path) -> None:
    odd = trial({"prompt": "a"}, tpot_ms_mean=float("nan"), seconds=float("inf"))
    data = written(tmp_path, odd, answers={odd.key: answers_of("half a pair \ud800")})
    assert (data["cells"][0]["stages"]["first"]["numbers"]["tpot_ms_mean"]) is None
    assert data["answers"]["texts"] == ["half a pair ?"]


def test_chinese_stays_readable_in_the_file(tmp_path: Path) -> None:
    one = trial({"prompt": "a"})
    written(tmp_path, one, answers={one.key: answers_of("线程束")})
    assert "线程束" in text_of(tmp_path)


def test_a_study_without_any_trial_and_one_of_failures_have_a_page(tmp_path: Path) -> None:
    assert written(tmp_path)["verdict"]["outcome"] is None
    data = written(tmp_path, trial({"prompt": "bare"}, error="died"))
    assert (data["cells"][0]["status"], data["cells"][0]["stages"]["first"]) == ("failed", None)
    assert data["verdict"]["counts"]["failed"] == 1


def test_every_way_to_stand_has_its_word(tmp_path: Path) -> None:
    good, again, low, slow = prompts(good=900.0, again=800.0, low=700.0, slow=100.0)
    again = replace(again, measurement=replace(again.measurement, first_round_chars_per_s=850.0))
    good = replace(good, measurement=replace(good.measurement, first_round_chars_per_s=950.0))
    low = replace(low, measurement=replace(low.measurement, rouge_l_f1_judge=0.1))
    dropped = replace(slow, measurement=None, dropped=Dropped("at least 12.0% slower", slow.measurement))
    unseen = replace(trial({"prompt": "unseen"}), measurement=None, dropped=Dropped("below its bound", None))
    skipped = replace(trial({"prompt": "skipped"}), measurement=None, skipped="the rate below it saturated")
    plain = trial({"prompt": "plain"}, chars_per_s=5.0, chars_per_s_repeats=[5.0])
    data = written(tmp_path, good, again, low, dropped, unseen, skipped, plain, trial({"prompt": "dead"}, error="died"))
    words = {cell["axes"]["prompt"]: cell["status"] for cell in data["cells"]}
    assert words == {
        "good": "winner",
        "again": "finalist",
        "plain": "eligible",
        "low": "refused",
        "slow": "dropped",
        "unseen": "dropped",
        "skipped": "skipped",
        "dead": "failed",
    }
    assert cell_of(data, prompt="slow")["sentences"] == ["dropped: at least 12.0% slower"]
    assert cell_of(data, prompt="slow")["stages"]["first"]["numbers"]["chars_per_s"] == 100.0
    assert cell_of(data, prompt="unseen")["stages"]["first"] is None
    assert cell_of(data, prompt="low")["sentences"] == ["rouge_l_f1_judge 0.1000 is below the floor 0.35 (a point estimate)"]
    assert cell_of(data, prompt="low")["short"] == ["judge 0.1000 < 0.35"]


def test_first_round_finals_and_confirmation_stand_apart(tmp_path: Path) -> None:
    first, other = prompts(a=100.0, b=50.0)
    again = replace(first, key=at_stage(first.key, Stage.finals))
    again = replace(again, measurement=replace(again.measurement, chars_per_s=90.0, first_round_chars_per_s=100.0))
    confirmed = replace(first, key=at_stage(first.key, Stage.confirmation))
    confirmed = replace(confirmed, measurement=replace(confirmed.measurement, chars_per_s=80.0))
    data = written(tmp_path, again, other, first_round=[first, other], confirmed=confirmed)
    stages = cell_of(data, prompt="a")["stages"]
    assert {name: stage["numbers"]["chars_per_s"] for name, stage in stages.items()} == {
        "first": 100.0,
        "again": 90.0,
        "confirmed": 80.0,
    }
    assert (cell_of(data, prompt="a")["decisive"], cell_of(data, prompt="b")["decisive"]) == ("again", "first")
    assert (data["verdict"]["frozen"], data["verdict"]["confirmed"]) == (80.0, True)


NEXT = {  # what is not known of the next measurement -> passes of a winner
    "noisy": {"chars_per_s_repeats": [10.0, 1000.0]},
    "once": {"chars_per_s_repeats": [100.0], "repeats": 1},
    "silent": {"chars_per_s_repeats": [100.0, 0.0]},
}


@pytest.mark.parametrize("why", NEXT)
def test_why_the_next_measurement_is_not_foretold_is_said_and_nothing_else(tmp_path: Path, why: str) -> None:
    verdict = written(tmp_path, trial({"prompt": "a"}, chars_per_s=100.0, **NEXT[why]))["verdict"]
    assert (verdict["next"], verdict["next_open"]) == (None, why)
    assert all(f"next_{why}" in TEXTS[language] for language in ("en", "zh"))


def test_every_pass_has_its_moment_and_engine_and_every_reading_its_moment(tmp_path: Path) -> None:
    readings = [Conditions(mhz, 1, 50, 100.0, []) for mhz in (1000, 1, 1100, 1, 1200, 1, 1300, 1)]  # two GPUs, before and after
    one = trial({"prompt": "a"}, conditions=readings, repeats_began_at=[10.0, 20.0], seconds_repeats=[2.0, 3.0])
    stage = written(tmp_path, one)["cells"][0]["stages"]["first"]
    assert stage["repeats"][1] == {"chars_per_s": 2.5, "at": 20.0, "seconds": 3.0, "engine": "one engine"}
    assert [(reading["at"], reading["mhz"]) for reading in stage["clocks"]] == [
        (10.0, 1000),
        (12.0, 1100),
        (20.0, 1200),
        (23.0, 1300),
    ]
    unknown = replace(one, measurement=replace(one.measurement, repeats_began_at=[], conditions=[]))
    stage = written(tmp_path, unknown)["cells"][0]["stages"]["first"]
    assert (stage["repeats"][1], stage["clocks"]) == ({"chars_per_s": 2.5, "seconds": 3.0, "engine": "one engine"}, [])


def test_a_distribution_leaves_out_what_its_questions_cannot_support(tmp_path: Path) -> None:
    few, many = trial({"prompt": "few"}, questions=3), trial({"prompt": "many"}, questions=40, chars_per_s=1.0)
    data = written(tmp_path, few, many, answers={few.key: answers_of("a"), many.key: answers_of("a", 40)})
    quantiles = {cell["axes"]["prompt"]: cell["stages"]["first"]["quantiles"]["e2e_latency_ms"] for cell in data["cells"]}
    assert quantiles["few"] == [1000.0, None, None, 2000.0, None, None, 3000.0]
    assert quantiles["many"] == pytest.approx([1000.0, 2950.0, 10750.0, 20500.0, 30250.0, 38050.0, 40000.0])


def test_answers_that_are_alike_are_kept_once_and_every_question_has_its_place(tmp_path: Path) -> None:
    a, b = prompts(a=2.0, b=1.0)
    asked_other = replace(answer("only b", 0.1), answer="x")
    data = written(tmp_path, a, b, answers={a.key: answers_of("same"), b.key: [*answers_of("same", 2), asked_other]})
    cells, questions = data["answers"]["cells"], [row["id"] for row in data["answers"]["questions"]]
    assert (questions, data["answers"]["texts"]) == (["q0", "q1", "q2", "only b"], ["same", "x"])
    assert (cells["prompt=a"]["text"], cells["prompt=b"]["text"]) == ([0, 0, 0, None], [0, 0, None, 1])


def test_sixteen_cells_of_eighty_questions_stay_below_three_megabytes_and_more_cells_show_those_of_note(tmp_path: Path) -> None:
    formats = ["none", *(f"f{place}" for place in range(15))]
    trials = [trial({"quantization": name}, chars_per_s=1000.0 - place, questions=80) for place, name in enumerate(formats)]
    trials = [
        replace(one, measurement=replace(one.measurement, first_round_chars_per_s=9.0 if place in (0, 1) else None))
        for place, one in enumerate(trials)
    ]

    def long(name: str, chars: int) -> list[Answer]:
        return [
            replace(answer(f"q{place}", 0.5), answer=f"{name} {place} " + "字" * chars, reference="考" * 150)
            for place in range(80)
        ]

    data = written(tmp_path, *trials, answers={one.key: long(one.name, 350) for one in trials})
    assert len(data["answers"]["cells"]) == 16
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    data = written(tmp_path, *trials, answers={one.key: long(one.name, 900) for one in trials})
    shown, elsewhere = set(data["answers"]["cells"]), data["answers"]["elsewhere"]
    assert shown == {"quantization=none", "quantization=f0"}, "the winner and the other finalist"
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert elsewhere["quantization=f7"] == f"trials/{trials[8].key[:16]}.answers.jsonl"
    assert len(elsewhere) == 14


@pytest.mark.parametrize(
    ("text", "loops"),
    [("同一句话。" * 12, True), ("warp 是 32 个线程，在一个 SM 上一起执行同一条指令。", False), ("啊啊啊", False), ("", False)],
)
def test_an_answer_that_repeats_itself_is_known(text: str, loops: bool) -> None:
    assert repeats_itself(text) is loops


def test_the_configuration_is_told_once_where_cells_share_it_and_no_value_of_the_environment_is(tmp_path: Path) -> None:
    a, b = prompts(a=2.0, b=1.0)
    engine = {"args": {"dtype": "bfloat16"}, "env": {"A_TOKEN": "hidden in the environment"}}
    a = replace(a, pipeline={**a.pipeline, "engine": engine}, fingerprint={"digests": {"weights": "w" * 64}, "device": "a GPU"})
    b = replace(b, pipeline={**b.pipeline, "engine": {**engine, "args": {"dtype": "float16"}}}, fingerprint=a.fingerprint)
    setup = written(tmp_path, a, b)["setup"]
    assert setup["configuration"]["engine.args.dtype"] == ["bfloat16", "float16"]
    assert setup["configuration"]["sampling.max_tokens"] == [256]
    assert (setup["digests"], setup["machine"]) == ({"weights": ["w" * 64]}, {"device": ["a GPU"]})
    assert "A_TOKEN" in text_of(tmp_path)
    assert "hidden in the environment" not in text_of(tmp_path)


def test_prompts_stand_there_as_the_model_read_them_and_as_configured_where_that_was_not_kept(tmp_path: Path) -> None:
    one = replace(
        trial({"prompt": "a"}, prompt_tokens=60, questions=10, repeats=2), fingerprint={"digests": {"prompt_tokens": "d" * 64}}
    )
    run = RunFile("python -m gpuqa.sweep", "abc", {"d" * 64: SentPrompt("<|im_start|>user\n{question}", 7)})
    setup = written(tmp_path, one, run=run)["setup"]
    assert setup["commands"]["sweep"] == "python -m gpuqa.sweep"
    [prompt] = setup["prompts"]
    assert (prompt["text"], prompt["tokens"], prompt["mean_tokens"]) == ("<|im_start|>user\n{question}", 7, 3.0)
    [prompt] = written(tmp_path, one)["setup"]["prompts"]
    assert (prompt["text"], prompt["configured"]) == (None, {"user": "{question}"})


def test_the_verdict_is_told_in_parts(tmp_path: Path) -> None:
    a, b = (
        replace(one, measurement=replace(one.measurement, chars_per_s_repeats=[speed, speed * 1.01]))
        for one, speed in zip(prompts(a=200.0, b=100.0), (200.0, 100.0), strict=True)
    )
    verdict = written(tmp_path, a, b)["verdict"]
    assert (verdict["winner"], verdict["first"], verdict["outcome"], verdict["rule"]) == (
        "prompt=a",
        "prompt=a",
        "INCONCLUSIVE",
        "fastest",
    )
    [lead] = verdict["leads"]
    assert (lead["other"], lead["share"], lead["over"]) == ("prompt=b", pytest.approx(1.0), [2, "passes"])
    assert (verdict["few_questions"], verdict["questions"], verdict["floor"]) == (True, 10, 0.35)


def test_effects_are_those_of_the_first_round(tmp_path: Path) -> None:
    a, b = prompts(a=100.0, b=50.0)
    again = replace(a, key=at_stage(a.key, Stage.finals), measurement=replace(a.measurement, chars_per_s_repeats=[1000.0]))
    [effect] = written(tmp_path, again, b, first_round=[a, b])["effects"]
    assert effect["changes"] == [{"axis": "prompt", "value": "b", "reference": "a"}]
    assert effect["on"]["chars_per_s"]["share"] == pytest.approx(-0.5)


def test_both_languages_say_the_same_things_with_the_same_places_and_know_every_metric() -> None:
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert set(english) == set(chinese)
    places = {key: [set(re.findall(r"\{(\w+)\}", language[key])) for language in (english, chinese)] for key in english}
    assert {key for key, (here, there) in places.items() if here != there} == set()
    assert set(TEXTS["metrics_zh"]) == set(METRICS)


def test_the_scripts_use_only_texts_that_exist_and_all_of_them() -> None:
    scripts = "\n".join(file.read_text(encoding="utf-8") for file in [*PAGE.glob("*.js"), *PAGE.glob("*.j2")])
    used = set(re.findall(r'\b(?:text|fact|block)\("(\w+)"', scripts))
    used |= set(re.findall(r'data-text="(\w+)"', scripts)) | set(re.findall(r"texts\.en\.(\w+)", scripts))
    assert used <= set(TEXTS["en"])
    starts = tuple(re.findall(r"text\(`(\w+_)\$", scripts))
    quoted = set(re.findall(r'"(\w+)"', scripts))
    assert {key for key in TEXTS["en"] if key not in used | quoted and not key.startswith(starts)} == set()


def test_no_script_ever_makes_markup_of_a_text() -> None:
    for file in PAGE.glob("*.js"):
        code = file.read_text(encoding="utf-8")
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code), file.name


def test_the_data_are_plain_json_without_numbers_that_json_lacks(tmp_path: Path) -> None:
    written(tmp_path, *prompts(a=1.0))
    assert json.loads(Scripts(text_of(tmp_path)).scripts["texts"])["zh"]["serve"] == "部署"
    assert not re.search(r"\b(NaN|Infinity)\b", Scripts(text_of(tmp_path)).scripts["data"])
