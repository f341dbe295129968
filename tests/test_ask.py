"""The command that asks one question: a served application on a real socket, a cell on a real engine, and what is refused."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import stand_in_service
from conftest import end_session, run_command, start_python
from stand_in_service import ScriptedEngine, another_server, scripted, serving, until
from written_study import ANSWERS, FAST, RULE, measured

from gpuqa import frozen
from gpuqa.ask import Numbers, ask, split, winner
from gpuqa.config import UserError, app
from gpuqa.config.commands import AskConfig, resolve
from gpuqa.config.pipeline import SamplingConfig
from gpuqa.engines import EngineFailed
from gpuqa.engines.transformers_engine import TransformersEngine
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Generation, GenerationDelta
from gpuqa.serving.auth import Keys

TEXT = "一个 warp 有 32 个线程。"
KEY = "a-key-of-the-tests"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    app.introduce_to_hydra()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUQA_KEYS", raising=False)


@pytest.fixture
def asked(monkeypatch, capfd):
    """`asked("什么是 warp？", "url=...")` runs the command in this process -> exit code, standard output and error."""

    def run(*argv: str) -> tuple[int, str, str]:
        words, overrides = split(argv)
        monkeypatch.setattr(sys, "argv", ["gpuqa.ask"])
        code = ask(words, app.compose("ask", overrides))
        return code, *capfd.readouterr()

    return run


class Writer(ScriptedEngine):
    """Says `TEXT` token by token; the second half, and its end, come when it is told to go on. A fake, as its parent is."""

    def __init__(self, reason: str = "stop", dies: bool = False) -> None:
        super().__init__()
        self.open.set()
        self.reason, self.dies = reason, dies
        self.token_ids: list[int] = load_tokenizer(stand_in_service.composed().model).encode(TEXT)
        self.half_way = self.left = False
        self.goes_on = True

    async def stream(self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]) -> AsyncGenerator[GenerationDelta]:
        try:
            for place, token in enumerate(self.token_ids):
                while place == len(self.token_ids) // 2 and not self.goes_on:
                    self.half_way = True
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1 * self.half_way)  # time to see that a client has left
                if self.dies and place > 3:
                    raise EngineFailed("it died")
                yield GenerationDelta([token], cached_tokens=2)
            yield GenerationDelta(finish_reason=self.reason, cached_tokens=2)
        except (asyncio.CancelledError, GeneratorExit):
            self.left = True
            raise


def served(engine: ScriptedEngine, keys: Keys | None = None) -> Any:
    return serving(scripted(engine), keys=keys)


def url_of(service: Any) -> str:
    service.wait_for((200, {"status": "batch"}))
    return f"url=http://127.0.0.1:{service.port}"


def test_words_are_the_question_and_what_looks_like_an_override_or_a_flag_is_not():
    words, others = split(
        ["什么是", "--config-dir", "mine", "warp？", "url=http://h", "+engine.args.x=1", "a == b", "--json", "-"]
    )
    assert words == ["什么是", "warp？", "a == b", "-"]
    assert others == ["--config-dir", "mine", "url=http://h", "+engine.args.x=1", "json=true"]
    assert split(["int x=1; 是什么", "是 x=1 吗"]) == (["int x=1; 是什么", "是 x=1 吗"], [])


@pytest.mark.parametrize("words", [[], [""], ["  "], ["-"]])
def test_without_a_question_there_is_one_line_and_nothing_starts(asked, monkeypatch, words):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" \n")))
    with pytest.raises(
        UserError, match=r'^question: .*; write python -m gpuqa.ask "..." or pipe one into python -m gpuqa.ask -$'
    ):
        asked(*words, "url=http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["frozen=a.yaml", "prompt=expert"], "prompt: frozen=... decides what answers, and prompt=expert would change nothing"),
        (["url=http://h", "engine.args.seed=1"], "engine: url=... decides what answers, and engine.args.seed=1 would change"),
        (["url=http://h", "frozen=a.yaml"], "url: frozen=... decides what answers, and url=http://h would change nothing"),
        (["trust_frozen=true"], "trust_frozen: belongs to frozen=..., which is not given"),
        (["keys_file=keys"], "keys_file: belongs to url=..., which is not given"),
        (["frozen=nowhere.yaml"], "frozen: 'nowhere.yaml' does not exist"),
        (["model.path=nowhere"], "model.path: 'nowhere' does not exist"),
        (["url=host:8000"], "url: got 'host:8000', allowed is"),
        (["timeout_s=0"], "timeout_s: got 0.0, allowed is"),
    ],
)
def test_what_would_have_no_effect_or_is_not_there_is_refused(asked, overrides, told):
    with pytest.raises(UserError) as refused:
        asked("warp", *overrides)
    assert str(refused.value).startswith(told)


@pytest.mark.slow
def test_the_answer_of_a_server_goes_to_standard_output_and_its_numbers_to_standard_error(asked):
    with served(Writer()) as service:
        code, out, err = asked("什么是", "warp？", url_of(service))
        assert (code, out) == (0, f"{TEXT}\n")
        tokens = len(Writer().token_ids)
        assert err.startswith("TTFT ")
        assert f" ms, {tokens} tokens, " in err
        assert err.endswith(" prompt tokens (2 cached), finish reason stop\n")
        code, out, err = asked("什么是 warp？", "--json", url_of(service))
        values = json.loads(out)
        assert (code, err, values["question"], values["answer"]) == (0, "", "什么是 warp？", TEXT)
        assert (values["finish_reason"], values["truncated"], values["cached_tokens"]) == ("stop", False, 2)
        assert values["chars"] == len(TEXT)
        assert 0 < values["ttft_ms"] <= values["e2e_latency_ms"]
        assert values["output_tokens_per_s"] == pytest.approx(values["output_tokens"] / values["e2e_latency_ms"] * 1000)


def test_the_question_comes_from_standard_input_with_a_dash(asked, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("threads=256 是什么？\n两行".encode())))
    with served(Writer()) as service:
        assert json.loads(asked("-", "json=true", url_of(service))[1])["question"] == "threads=256 是什么？\n两行"


@pytest.mark.slow
def test_a_truncated_answer_is_called_so(asked):
    with served(Writer("length")) as service:
        assert asked("warp", url_of(service))[2].endswith("finish reason length: TRUNCATED at the most tokens of an answer\n")
        assert json.loads(asked("warp", "json=true", url_of(service))[1])["truncated"] is True


def test_of_a_server_that_tells_no_tokens_they_are_not_available():
    line = Numbers(None, 500.0, None, None, 10, 20.0, None, None, "stop", True).line
    assert line.startswith("TTFT n/a, n/a tokens, n/a tokens/s, 20 chars/s, 0.50 s in all, n/a prompt tokens (n/a cached), ")
    assert line.endswith("; the question was too long and its middle was left out")


@pytest.mark.slow
def test_a_server_that_is_not_there_is_starting_or_wants_a_key_is_one_line(asked, tmp_path):
    with pytest.raises(UserError, match=r"^url: nobody answers at http://127.0.0.1:1 \(.*refused.*\); start a server there"):
        asked("warp", "url=http://127.0.0.1:1")
    starting = served(ScriptedEngine())  # its warm-up ends when `open` is set
    with starting as service, pytest.raises(UserError, match=r"^url: http://127.0.0.1:\d+ is not ready: HTTP 503 .*starting"):
        asked("warp", f"url=http://127.0.0.1:{service.port}")
    with served(Writer(), Keys([KEY])) as service:
        with pytest.raises(UserError, match=r"^keys_file: .* answers HTTP 401 without a key; name a file with keys_file=FILE"):
            asked("warp", url_of(service))
        (tmp_path / "keys").write_text(KEY)
        assert asked("warp", "keys_file=keys", url_of(service))[:2] == (0, f"{TEXT}\n")


@pytest.mark.slow
def test_an_answer_that_breaks_off_or_fails_ends_with_its_reason_and_code_1(asked):
    with served(Writer(dies=True)) as service:
        code, out, err = asked("warp", url_of(service))
        assert (code, err) == (1, "\nerror: the answer broke off: the engine failed\n")
        assert TEXT.startswith(out)
    failing = ScriptedEngine()
    failing.open.set()
    with served(failing) as service:
        address = url_of(service)  # after the warm-up
        failing.script = lambda _: Generation(error="no")
        code, out, err = asked("warp", address)
        assert (code, out) == (1, "")
        assert "refuses the question: HTTP 500" in err


EVENTS = (
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "32 threads"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
)


@pytest.fixture
def other_server() -> Iterator[list[str]]:
    """A server of another project: its address, then what it sends to a question. A fake, because ours does none of this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(json.dumps({"data": [{"id": "theirs"}]} if self.path == "/v1/models" else {}))

        def do_POST(self) -> None:
            assert json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"] == "theirs"
            self.reply("".join(said[1:]))

        def reply(self, text: str) -> None:
            self.send_response(404 if said[1:] == ["404"] else 200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with another_server(Handler) as address:
        said = [f"url={address}"]
        yield said


@pytest.mark.slow
def test_a_server_of_another_project_is_asked_and_what_it_does_not_count_is_not_available(asked, other_server):
    other_server += [f"data: {json.dumps(event)}\n\n" for event in EVENTS]
    code, out, err = asked("warp", other_server[0])
    assert (code, out) == (0, "32 threads\n")
    assert ", n/a tokens, n/a tokens/s, " in err
    other_server.pop()
    code, out, err = asked("warp", other_server[0])
    assert (code, out, err.splitlines()[-1]) == (
        1,
        "32 threads",
        f"error: {other_server[0][4:]} broke off: the stream has no end",
    )
    other_server[1:] = ["data: {half\n\n"]
    code, out, err = asked("warp", other_server[0])
    assert (code, err) == (1, "error: the server sent an event that is none of OpenAI's: '{half'\n")
    other_server[1:] = ["404"]
    with pytest.raises(UserError, match=r"^url: http://127.0.0.1:\d+ does not speak OpenAI's API: GET /v1/models: HTTP 404"):
        asked("warp", other_server[0])


@pytest.mark.slow
def test_tokens_are_shown_as_they_come_and_ctrl_c_ends_the_answer_at_the_server_too(tmp_path):
    engine = Writer()
    with served(engine) as service, (tmp_path / "out").open("w+b") as out, (tmp_path / "err").open("w+b") as err:
        address = url_of(service)
        engine.goes_on = False
        process = start_python("-m", "gpuqa.ask", "warp", address, cwd=tmp_path, env=None, stdout=out, stderr=err)
        try:
            until(lambda: engine.half_way)
            until(lambda: len((tmp_path / "out").read_text()) > 5)
            assert TEXT.startswith((tmp_path / "out").read_text())
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert (tmp_path / "err").read_text() == ""
            engine.goes_on = True  # a server sees that a client has left when it sends the next token
            until(lambda: engine.left)
        finally:
            end_session(process.pid, grace_s=0)


def test_where_the_engine_does_not_start_its_reason_is_told_and_all_that_it_printed_is_in_a_file(asked, monkeypatch):
    """The start is a fake, because a real one that fails first loads PyTorch for ten seconds; `test_engines` has those."""

    async def start(*_: Any) -> None:
        os.write(1, b"words of the engine\n")
        os.write(2, b"ValueError: too little memory\n")
        raise EngineFailed("RuntimeError: Engine core initialization failed. See root cause above.")

    monkeypatch.setattr(TransformersEngine, "start", start)
    code, out, err = asked("warp", "engine=transformers")
    assert (code, out) == (1, "")
    told = err.splitlines()[-1]
    assert told.startswith("error: ValueError: too little memory; what the engine printed: ")
    log = Path(told.rpartition(": ")[2])
    assert log.read_text() == "words of the engine\nValueError: too little memory\n"
    log.unlink()


@pytest.mark.slow
def test_a_frozen_file_that_does_not_fit_is_refused_in_the_words_of_serve(tmp_path):
    frozen.freeze(frozen.Winner(measured(FAST, "bare", 2000.0), ANSWERS), RULE, "it is fast", tmp_path / "frozen.yaml")
    refusals = [run_command(*words, "frozen=frozen.yaml", cwd=tmp_path) for words in (("ask", "warp"), ("serve",))]
    assert [done.returncode for done in refusals] == [2, 2]
    mine, serves = (done.stderr.splitlines()[-1] for done in refusals)
    assert mine == serves
    assert "is not what was measured: sha256 of the weights differs" in mine


def test_a_frozen_winner_of_another_machine_is_taken_with_the_warnings_of_serve(tmp_path, monkeypatch, caplog):
    file = tmp_path / "frozen.yaml"
    frozen.freeze(frozen.Winner(measured(FAST, "bare", 2000.0), ANSWERS), RULE, "it is fast", file)
    monkeypatch.setattr(sys, "argv", ["gpuqa.ask"])
    config = resolve(app.compose("ask", [f"frozen={file}", "allow_mismatch=true"]), AskConfig)
    pipeline, _ = winner(config)
    assert pipeline.prompt.name == "bare"
    assert "allow_mismatch=true: sha256 of the weights differs: " in caplog.text
    assert "The winner was measured on a GPU. This machine is " in caplog.text


@pytest.mark.engine
def test_a_frozen_winner_answers_as_it_is_served_and_nothing_of_its_engine_stands_between_the_words(
    study_folder, service, tmp_path
):
    question = "什么是 warp？"
    began = time.monotonic()
    done = run_command("ask", question, f"frozen={study_folder / 'frozen.yaml'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{service.predict([question])[0]}\n"
    note, starting, numbers = done.stderr.splitlines()
    assert note.startswith("DEMONSTRATION MODEL")
    log = Path(starting.rpartition(" goes to ")[2])
    assert log.name.startswith("gpuqa-ask-")
    assert not log.exists()
    assert numbers.startswith("TTFT ")
    assert float(numbers.split(" s in all")[0].rpartition(", ")[2]) < time.monotonic() - began
    assert not list(tmp_path.iterdir())
