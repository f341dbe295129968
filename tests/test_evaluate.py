"""The judge's command: against the real service in both modes, and against services that misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from question_files import course_file

from gpuqa.config.commands import EvaluateConfig
from gpuqa.config.measurement import DatasetConfig
from gpuqa.evaluate import ContractBroken, wait_until_ready
from gpuqa.measure.metric_table import METRICS
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.pipeline import dataset as dataset_file

pytestmark = pytest.mark.slow

ALSO = {  # what `evaluate` writes beside the metrics
    "url",
    "status",
    "ready_after_s",
    "judge_accuracy",
    "judge_tokens_per_s",
    "rouge_l_f1_judge_interval",
    "rouge_l_f1_interval",
    "questions_file",
    "frozen",
    "answers",
}
KEY, OTHER_KEY = "a-key-of-the-tests", "another-key-of-the-tests"
QUESTIONS = (  # question, reference, the answer of the scripted service, both scores worked out by hand
    # judge: 3 common words of 4 and 3, so P = 1, R = 3/4, F1 = 6/7; the line break separates words as a space does
    ("q1", "cudaMalloc allocates device memory", "cudaMalloc\nallocates memory", 6 / 7, 6 / 7),
    # equal, but without a Latin letter: invisible to the judge
    ("q2", "使用共享内存", "使用共享内存", 0.0, 1.0),
    # judge: "warp 32" and "warp", P = 1, R = 1/2, F1 = 2/3; words: warp 是 32 个 线程, P = 1, R = 1/5, F1 = 1/3
    ("q3", "warp 是 32 个线程", "warp", 2 / 3, 1 / 3),
    # no answer
    ("q4", "kernel launch", "", 0.0, 0.0),
)
ANSWERS = [answer for _, _, answer, _, _ in QUESTIONS]
CHARACTERS = 27 + 6 + 4
JUDGE = (6 / 7 + 0 + 2 / 3 + 0) / 4
CHINESE = (6 / 7 + 1 + 1 / 3 + 0) / 4


@dataclass
class Script:
    """What a bad service says. A fake, because the real one does none of this on demand."""

    statuses: list[tuple[int, Any]] = field(default_factory=lambda: [(200, {"status": "batch"})])  # of GET /; the last stays
    answer: Callable[[Any], tuple[int, Any]] = lambda prompt: (200, {"response": ANSWERS})
    delay_s: float = 0.0
    info: tuple[int, Any] = (404, {"detail": "Not Found"})  # of GET /info
    key: str | None = None  # that it wants; its refusal is rude enough to quote what it got
    location: str | None = None  # where GET / leads
    asked: list[Any] = field(default_factory=list)  # the prompts of the POSTs, in their order
    polls: int = 0


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """The script behind a real socket; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/info":
                self.reply(*script.info)
                return
            code, body = script.statuses[min(script.polls, len(script.statuses) - 1)]
            script.polls += 1
            self.reply(code, body)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/predict"
            if script.key and self.headers["Authorization"] != f"Bearer {script.key}":
                self.reply(401, f"no: {self.headers['Authorization']}")
                return
            script.asked.append(body["prompt"])
            time.sleep(script.delay_s)
            self.reply(*script.answer(body["prompt"]))

        def reply(self, code: int, body: Any) -> None:
            content = body.encode() if isinstance(body, str) else json.dumps(body, ensure_ascii=False).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            if script.location:
                self.send_header("Location", script.location)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def dataset(tmp_path: Path) -> list[str]:
    """The hand-worked questions as a dataset."""
    rows = [{"instruction": question, "input": "", "output": reference} for question, reference, *_ in QUESTIONS]
    (tmp_path / "questions.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return ["dataset.name=by_hand", "dataset.path=questions.json"]


def by_question(prompt: str) -> tuple[int, Any]:
    """The scripted answer in ok mode; the third comes as a list of one and the fourth as null, as some services do."""
    place = [question for question, *_ in QUESTIONS].index(prompt)
    return 200, {"response": [*ANSWERS[:2], [ANSWERS[2]], None][place]}


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return found


def check_by_hand(found: dict[str, Any]) -> None:
    """All numbers that do not depend on the clock."""
    assert [row["question"] for row in found["answers"]] == [question for question, *_ in QUESTIONS]
    assert [row["answer"] for row in found["answers"]] == ANSWERS
    assert [row["rouge_l_f1_judge"] for row in found["answers"]] == pytest.approx([judge for *_, judge, _ in QUESTIONS])
    assert [row["rouge_l_f1"] for row in found["answers"]] == pytest.approx([chinese for *_, chinese in QUESTIONS])
    assert found["questions"] == 4
    assert found["judge_accuracy"] == pytest.approx(JUDGE)
    assert found["rouge_l_f1"] == pytest.approx(CHINESE)
    assert found["answer_chars_mean"] == CHARACTERS / 4
    assert found["answers_empty"] == 1
    assert found["answers_multi_line"] == 1
    assert found["judge_tokens_per_s"] == found["chars_per_s"] == pytest.approx(CHARACTERS / found["seconds"])
    assert set(found) - ALSO == {name for name, metric in METRICS.items() if metric.over_http}
    assert found["questions_per_s"] == pytest.approx(4 / found["seconds"])
    assert found["rouge_l_f1_judge_interval"]["low"] <= JUDGE <= found["rouge_l_f1_judge_interval"]["high"]
    assert found["e2e_latency_ms_p95"] is None, "four questions do not support it"


def test_batch_mode_asks_everything_in_one_post_and_a_missing_answer_counts_as_empty(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    waiting = (503, {"status": "starting"})
    script = Script(statuses=[waiting, waiting, waiting, waiting, (200, {"status": "batch"})], delay_s=0.6)
    script.answer = lambda prompt: (200, {"response": ANSWERS[:3]})
    with serving(script) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert script.asked == [[question for question, *_ in QUESTIONS]]
    found = results(tmp_path)
    check_by_hand(found)
    assert found["status"] == "batch"
    assert found["ready_after_s"] >= 1.5, "four polls said 503, half a second apart"
    assert 0.6 <= found["seconds"] < 0.6 + found["ready_after_s"], "the wait is not on the clock"
    assert f"{url} is not ready (HTTP 503 {{" in run.stdout
    assert run.stdout.count("waiting for it, at most 420 s") == 1, "it is said every now and then, not at every poll"
    assert "4 questions in one POST; waiting for the answers, at most 360 s for each POST\n" in run.stdout
    assert "judge_accuracy               0.3810\n" in run.stdout
    assert "rouge_l_f1_interval          0." in run.stdout


def test_ok_mode_asks_one_question_after_the_other(dataset: list[str], command: Any, tmp_path: Path) -> None:
    script = Script(statuses=[(200, {"status": "ok"})], answer=by_question, delay_s=0.2)
    with serving(script) as url:
        run = command("evaluate", f"url={url}/", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert script.asked == [question for question, *_ in QUESTIONS]
    found = results(tmp_path)
    check_by_hand(found)
    assert found["status"] == "ok"
    assert found["seconds"] == pytest.approx(sum(row["latency_s"] for row in found["answers"]))
    assert all(row["latency_s"] >= 0.2 for row in found["answers"])
    assert found["e2e_latency_ms_p50"] >= 200
    assert "e2e_latency_ms_p95           n/a (needs 20)\n" in run.stdout
    assert "4 questions one after the other; waiting for the answers" in run.stdout


def test_the_time_of_a_batch_is_not_called_a_latency_and_what_the_contract_does_not_tell_is_null(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    with serving(Script()) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    found = results(tmp_path)
    assert [found[f"e2e_latency_ms_p{percent}"] for percent in (50, 95, 99)] == [None] * 3
    assert "e2e_latency_ms_p50           n/a (one POST answered all questions)\n" in run.stdout
    unknown = ("latency_s", "output_tokens", "finish_reason", "error")
    assert [[row[key] for key in unknown] for row in found["answers"]] == [[None] * 4] * 4
    assert found["frozen"] is None
    assert "frozen numbers: unknown, since GET /info does not tell them\n" in run.stdout


def frozen_info(folder: Path, **changes: Any) -> tuple[int, Any]:
    """What our service says at /info of a winner that was measured on the hand-worked questions."""
    digest = dataset_file.digest(dataset_file.read_questions(folder / "questions.json"))
    measurement = {
        "questions": 4,
        "repeats": 3,
        "chars_per_s": 0.5,
        "chars_per_s_interval": {"low": 0.25, "high": 0.75},
        "rouge_l_f1_judge": 0.38,
        "rouge_l_f1_judge_interval": {"low": 0.3, "high": 0.45},
        "rouge_l_f1": 0.9,
        "rouge_l_f1_interval": None,
    }
    setting = {"dataset": {"name": "by_hand", "limit": None}, "workload": {"issue": "batch"}}
    frozen = {"digest": "d" * 64, "device": "a card", "study": "mine", "digests": {"dataset": digest}}
    return 200, {"frozen": {**frozen, "setting": setting, "measurement": measurement, **changes}}


def test_measured_numbers_stand_beside_the_frozen_ones_and_say_inside_or_outside(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    with serving(Script(info=frozen_info(tmp_path))) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = {line.split()[0]: line.split()[1:] for line in run.stdout.partition("number  ")[2].splitlines()[1:4]}
    assert rows["rouge_l_f1_judge"] == ["0.3800", "0.3000", "to", "0.4500", "0.3810", "inside"]
    assert (rows["chars_per_s"][-1], rows["rouge_l_f1"][-2:]) == ("OUTSIDE", ["no", "interval"])
    assert "frozen numbers: of study mine, digest dddddddddddddddd, 3 repeats on a card; these are of one pass\n" in run.stdout
    told = results(tmp_path)["frozen"]
    assert (told["digest"], told["not_comparable"]) == ("d" * 64, None)
    assert {name: number["inside"] for name, number in told["numbers"].items()} == {
        "chars_per_s": False,
        "rouge_l_f1_judge": True,
        "rouge_l_f1": None,
    }


def test_numbers_of_other_questions_are_not_compared(dataset: list[str], command: Any, tmp_path: Path) -> None:
    with serving(Script(info=frozen_info(tmp_path, digests={"dataset": "0" * 64}))) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    said = "the numbers cannot be compared: the study asked other questions (dataset=by_hand, dataset.limit=None)"
    assert f"{said}\n" in run.stdout
    assert "inside" not in run.stdout
    assert results(tmp_path)["frozen"]["not_comparable"] == said
    assert results(tmp_path)["frozen"]["numbers"] == {}


def test_a_speed_that_was_measured_in_another_way_is_not_compared_and_scores_are(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    setting = {"dataset": {}, "workload": {"issue": "closed"}}
    with serving(Script(info=frozen_info(tmp_path, setting=setting))) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "the speed cannot be compared: it was frozen with workload.issue=closed, and this is batch\n" in run.stdout
    assert list(results(tmp_path)["frozen"]["numbers"]) == ["rouge_l_f1_judge", "rouge_l_f1"]


@pytest.mark.parametrize(
    "info",
    [(200, "<html>"), (200, {"frozen": {}}), (200, {"frozen": {"measurement": 3, "digests": {}, "setting": {}}}), (500, "{")],
    ids=["a page", "nothing frozen", "another shape", "an error"],
)
def test_a_service_of_another_project_is_evaluated_and_what_it_froze_is_unknown(
    info: tuple[int, Any], dataset: list[str], command: Any, tmp_path: Path
) -> None:
    with serving(Script(info=info)) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert results(tmp_path)["frozen"] is None


def test_a_key_of_a_file_or_of_the_environment_is_sent_and_never_shown(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n{OTHER_KEY}\n", encoding="utf-8")
    ways: list[tuple[list[str], dict[str, str] | None]] = [(["keys_file=keys"], None), ([], {"GPUQA_KEYS": KEY})]
    for words, environment in ways:
        with serving(Script(key=KEY)) as url:
            run = command("evaluate", f"url={url}", *dataset, *words, cwd=tmp_path, env=environment)
        assert run.returncode == 0, run.stdout + run.stderr
        assert KEY not in run.stdout + run.stderr + (tmp_path / "evaluation.json").read_text(encoding="utf-8")


def test_a_key_that_is_missing_or_refused_is_named_by_where_it_is_from_and_not_shown(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(OTHER_KEY, encoding="utf-8")
    with serving(Script(key=KEY)) as url:
        runs = [command("evaluate", f"url={url}", *dataset, *words, cwd=tmp_path) for words in ([], ["keys_file=keys"])]
    assert [(run.returncode, "Traceback" in run.stderr, len(run.stderr.splitlines())) for run in runs] == [(2, False, 1)] * 2
    assert (
        f"keys_file: {url} answers HTTP 401 without a key; name a file with keys_file=FILE, or set GPUQA_KEYS" in runs[0].stderr
    )
    assert f"keys_file='keys': {url} answers HTTP 401 to the key in it; give the key of this service" in runs[1].stderr
    assert not [run for run in runs if OTHER_KEY in run.stdout + run.stderr]


def test_a_service_that_quotes_the_key_in_an_error_does_not_make_us_show_it(
    dataset: list[str], command: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(KEY, encoding="utf-8")
    script = Script(key=KEY, answer=lambda _: (500, f"failed for Bearer {KEY}"))
    with serving(script) as url:
        run = command("evaluate", f"url={url}", *dataset, "keys_file=keys", cwd=tmp_path)
    assert run.returncode == 1
    assert "got HTTP 500 failed for Bearer (the key)" in run.stderr
    assert KEY not in run.stdout + run.stderr


def test_a_file_like_the_courses_is_told_first_and_its_intervals_count_each_question_once(command: Any, tmp_path: Path) -> None:
    course_file(tmp_path / "course.json")
    script = Script(answer=lambda prompts: (200, {"response": [f"关于 {prompt}" for prompt in prompts]}))
    with serving(script) as url:
        run = command("evaluate", f"url={url}", "dataset.name=course", "dataset.path=course.json", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("course: 358 rows, 92 different questions (course.json, UTF-8, sha256 ")
    assert "266 rows repeat a question: the prefix cache holds their prompts already" in run.stdout
    found = results(tmp_path)
    assert found["questions_file"]["different_questions"] == 92
    rows = [(row["rouge_l_f1"], row["question"]) for row in found["answers"]]
    scores, questions = zip(*rows, strict=True)
    by_question, by_row = bootstrap_interval(scores, clusters=questions), bootstrap_interval(scores)
    assert found["rouge_l_f1_interval"] == pytest.approx({"low": by_question.low, "high": by_question.high})
    assert by_question.high - by_question.low > 1.5 * (by_row.high - by_row.low)


def test_an_answer_that_is_not_text_counts_as_empty(dataset: list[str], command: Any, tmp_path: Path) -> None:
    script = Script(answer=lambda prompt: (200, {"response": [ANSWERS[0], None, 7, ["warp"]]}))
    with serving(script) as url:
        run = command("evaluate", f"url={url}", *dataset, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [row["answer"] for row in results(tmp_path)["answers"]] == [ANSWERS[0], "", "", ""]
    assert results(tmp_path)["judge_accuracy"] == pytest.approx(6 / 7 / 4)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            Script([(503, {"status": "starting"})]),
            ['not ready within ready_timeout_s=1; last: HTTP 503 {"status": "starting"}'],
        ),
        (Script([(404, "nothing here")]), ["not ready", "HTTP 404 nothing here"]),
        (Script([(200, "<html>\n\x1b[2J <p>\n")]), ["GET / must answer", "HTTP 200 <html> [2J <p>"]),
        (Script([(200, {"state": "ok"})]), ["GET / must answer", '{"state": "ok"}']),
        (Script([(200, {"status": "fast"})]), ["GET / must answer", '{"status": "fast"}']),
        (Script([(200, ["ok"])]), ["GET / must answer", '["ok"]']),
        (Script(answer=lambda _: (500, "out of memory")), ["POST /predict must answer 200", "HTTP 500 out of memory"]),
        (Script(answer=lambda _: (200, "plain text")), ["POST /predict must answer 200", "plain text"]),
        (Script(answer=lambda _: (200, {"answers": ANSWERS})), ["POST /predict must answer 200", '{"answers":']),
        (Script(answer=lambda _: (200, ANSWERS)), ["POST /predict must answer 200"]),
        (Script(answer=lambda _: (200, {"response": "one text"})), ["a list of at most 4", "'one text'"]),
        (Script(answer=lambda _: (200, {"response": [*ANSWERS, "?"]})), ["a list of at most 4"]),
        (Script(delay_s=3), ["POST /predict gave no answer within answer_timeout_s=1"]),
        (
            Script([(301, "moved")], location="https://example.org/"),
            ["GET / leads to 'https://example.org/'; name that address"],
        ),
        (
            Script([(200, {"status": "ok"})], answer=lambda prompt: (500 if prompt == "q3" else 200, {"response": ""})),
            ["HTTP 500"],
        ),
    ],
    ids=[
        "never ready",
        "not found",
        "not JSON",
        "no status",
        "unknown status",
        "a list for a status",
        "an error for answers",
        "text for answers",
        "no response",
        "a bare list",
        "one text for a batch",
        "too many answers",
        "too slow",
        "elsewhere",
        "an error on the way",
    ],
)
def test_a_service_that_breaks_the_contract_is_told_so_in_one_line(
    script: Script, told: list[str], dataset: list[str], command: Any, tmp_path: Path
) -> None:
    with serving(script) as url:
        run = command("evaluate", f"url={url}", "ready_timeout_s=1", "answer_timeout_s=1", *dataset, cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stderr.startswith(f"error: {url}: ")
    assert len(run.stderr.splitlines()) == 1
    assert all(part in run.stderr for part in told), run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "evaluation.json").exists()


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_an_address_where_nobody_listens_is_told_at_once_and_after_the_wait(
    nobody: str, dataset: list[str], command: Any, tmp_path: Path
) -> None:
    run = command("evaluate", f"url={nobody}", "ready_timeout_s=1", *dataset, cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    refused = "no connection: ConnectError: [Errno 111] Connection refused"
    wait = "waiting for it, at most 1 s (0 s so far; Ctrl-C ends the wait)"
    assert f"{nobody} is not ready ({refused}); {wait}\n" in run.stdout
    assert f"not ready within ready_timeout_s=1; last: {refused}" in run.stderr
    assert "Traceback" not in run.stderr


def test_while_nobody_listens_it_is_said_again_and_again_what_is_waited_for(
    nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(nobody, DatasetConfig("mine", "mine.json"), ready_timeout_s=2.2)
    with httpx.Client(base_url=nobody, trust_env=False) as client, pytest.raises(ContractBroken, match="not ready within"):
        wait_until_ready(client, config, say_every_s=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("at most 2.2 s (")[2] for line in lines] == [
        f"{seconds} s so far; Ctrl-C ends the wait)" for seconds in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("url=127.0.0.1:8000", "url: got '127.0.0.1:8000', allowed is an http:// or https:// address with a host"),
        ("url=http://", "url: got 'http://', allowed is"),
        ("url=http://localhost:99999", "url: got 'http://localhost:99999', allowed is"),
        ("url='http://[::1'", "url: got 'http://[::1', allowed is"),
        ("url=http://me:my-password@localhost", "url: holds a user, a query or a fragment"),
        ("output=.", "output: got '.', allowed is a file"),
        ("keys_file=no/such/keys", "keys_file: 'no/such/keys' cannot be read: FileNotFoundError; it holds one key a line"),
        ("keys_variable=", "keys_variable: got '', allowed is the name of an environment variable"),
        ("dataset.path=no/such/file.json", "dataset.path: 'no/such/file.json' does not exist"),
        ("answer_timeout_s=0", "answer_timeout_s: got 0.0"),
        ("output=no/such/folder/evaluation.json", "output"),
    ],
)
def test_a_wrong_input_is_refused_before_anybody_is_asked(
    override: str, told: str, dataset: list[str], command: Any, tmp_path: Path
) -> None:
    script = Script()
    with serving(script) as url:
        run = command("evaluate", f"url={url}", *dataset, override, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert told in run.stderr
    assert "Traceback" not in run.stderr
    assert "my-password" not in run.stderr
    assert script.asked == []


def test_a_file_that_is_no_key_is_refused_without_quoting_it(dataset: list[str], command: Any, tmp_path: Path) -> None:
    for content in ("", "schlüssel-0123456789"):
        (tmp_path / "keys").write_text(content, encoding="utf-8")
        run = command("evaluate", "url=http://127.0.0.1:9", *dataset, "keys_file=keys", cwd=tmp_path)
        assert run.returncode == 2
        assert "keys_file='keys': holds" in run.stderr
        assert not content or content not in run.stderr


@pytest.mark.engine
def test_the_served_winner_scores_what_the_sweep_measured(
    service: Any, study_folder: Path, command: Any, tmp_path: Path
) -> None:
    run = command("evaluate", f"url={service.url}", "dataset.limit=6", "output=batch.json", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "batch.json").read_text(encoding="utf-8"))
    measured = yaml.safe_load((study_folder / "frozen.yaml").read_text(encoding="utf-8"))["measurement"]
    assert found["status"] == "batch"
    for ours, theirs in {
        "judge_accuracy": "rouge_l_f1_judge",
        "rouge_l_f1": "rouge_l_f1",
        "answer_chars_mean": "answer_chars_mean",
        "rouge_l_f1_judge_interval": "rouge_l_f1_judge_interval",
    }.items():
        assert found[ours] == pytest.approx(measured[theirs])
    assert found["judge_accuracy"] > 0
    assert "every answer: batch.json" in run.stdout
    beside = found["frozen"]["numbers"]
    assert [beside[name]["inside"] for name in ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1")] == [None, True, True]
    assert beside["rouge_l_f1"]["frozen"] == pytest.approx(measured["rouge_l_f1"])


@pytest.mark.engine
def test_the_served_winner_answers_in_ok_mode_too(serial_service: Any, command: Any, tmp_path: Path) -> None:
    run = command("evaluate", f"url={serial_service.url}", "dataset.limit=3", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    found = results(tmp_path)
    assert found["status"] == "ok"
    assert [row["answer"] for row in found["answers"]] == [serial_service.predict(row["question"]) for row in found["answers"]]
    assert found["answers_empty"] == 0
    assert found["frozen"]["numbers"] == {}, "three questions are not the six of the study"
    assert found["seconds"] == pytest.approx(sum(row["latency_s"] for row in found["answers"]))
