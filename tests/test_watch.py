"""The command that watches a server: real applications on real sockets, and the arithmetic between two scrapes."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import Any

import pytest
from conftest import ROOT, child_environment, run_command
from stand_in_service import ScriptedEngine, another_server, scripted, serving, until

from gpuqa.config import UserError, app
from gpuqa.config.commands import WatchConfig
from gpuqa.records import Generation
from gpuqa.serving.auth import Keys
from gpuqa.serving.client import Server
from gpuqa.serving.scrapes import History, Scrape, percentile_ms, rates, since_start
from gpuqa.watch import Watched, as_json, line, lines, view, watch

KEY = "a-key-of-the-tests"
COUNTERS = """# TYPE gpuqa_questions_total counter
gpuqa_questions_total{{outcome="answered"}} {questions}
gpuqa_questions_total{{outcome="late"}} 2.0
gpuqa_answer_characters_total {chars}
gpuqa_output_tokens_total 40.0
gpuqa_prompt_tokens_total 100.0
gpuqa_cached_prompt_tokens_total 25.0
process_start_time_seconds {started}
gpuqa_answer_seconds_bucket{{le="0.1"}} 0.0
gpuqa_answer_seconds_bucket{{le="0.5"}} {questions}
gpuqa_answer_seconds_bucket{{le="+Inf"}} {questions}
"""


def scrape(at: float, questions: float = 0.0, chars: float = 0.0, started: float = 1000.0) -> Scrape:
    return Scrape.of(COUNTERS.format(questions=questions, chars=chars, started=started), at, 1100.0 + at)


def watched(port: int) -> Watched:
    return Watched(Server(f"http://127.0.0.1:{port}", None, "GPUQA_KEYS"))


def answering() -> ScriptedEngine:
    engine = ScriptedEngine(lambda _: Generation([11, 12, 13], "stop", 4, 0.02, 0.2, 0.01))
    engine.open.set()
    return engine


@pytest.fixture
def ran(monkeypatch, capfd):
    """`ran("once=true")` runs the command in this process -> exit code, standard output."""
    app.introduce_to_hydra()
    monkeypatch.delenv("GPUQA_KEYS", raising=False)

    def run(*overrides: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gpuqa.watch"])
        code = watch(app.compose("watch", overrides))
        return code, capfd.readouterr().out

    return run


@pytest.mark.parametrize(
    ("counts", "fraction", "ms"),
    [
        ({"0.1": 0.0, "0.5": 10.0, "+Inf": 10.0}, 0.5, 300.0),  # the middle of 100 to 500
        ({"0.1": 4.0, "0.5": 8.0, "+Inf": 8.0}, 0.5, 100.0),
        ({"0.1": 4.0, "0.5": 8.0, "+Inf": 8.0}, 0.25, 50.0),
        ({"0.1": 0.0, "0.5": 4.0, "+Inf": 8.0}, 0.99, 500.0),  # beyond the last bound
        ({"0.1": 0.0, "+Inf": 0.0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_a_percentile_is_interpolated_between_the_bounds_of_its_bucket(counts, fraction, ms):
    assert percentile_ms(counts, fraction) == (ms if ms is None else pytest.approx(ms))


def test_speeds_are_what_counters_grew_by_in_a_time():
    seen = rates(scrape(5.0, 10, 100), scrape(15.0, 30, 2100))
    assert seen is not None
    assert (seen.seconds, seen.questions_per_s, seen.chars_per_s, seen.output_tokens_per_s) == (10.0, 2.0, 200.0, 0.0)
    assert (seen.prefix_cache_hit_rate, seen.ttft_ms_p50, seen.e2e_latency_ms_p50) == (None, None, pytest.approx(300))
    life = since_start(scrape(0.0, 10, 1000))  # 100 s after the start of its process
    assert life is not None
    assert (life.seconds, life.questions_per_s, life.chars_per_s, life.prefix_cache_hit_rate) == (100.0, 0.1, 10.0, 0.25)


def test_a_minute_of_scrapes_is_kept_and_none_of_a_process_that_is_gone():
    history = History()
    history.add(scrape(0.0))
    assert history.before(10.0) is None
    for second in range(1, 200):
        history.add(scrape(float(second), second))
    assert len(history.scrapes) == 61
    assert [history.before(seconds).at for seconds in (10.0, 60.0, 90.0)] == [189.0, 139.0, 139.0]  # type: ignore[union-attr]
    history.add(scrape(200.0, 1, started=1199.0))
    assert (len(history.scrapes), history.before(10.0)) == (1, None)


@pytest.mark.parametrize("interval", [0.5, 0.0, math.inf])
def test_a_server_is_scraped_once_a_second_at_most(interval):
    with pytest.raises(UserError, match=r"^interval_s: got .*, allowed is a number of at least 1"):
        WatchConfig("http://h", interval_s=interval)


@pytest.mark.slow
def test_all_numbers_of_a_served_application_are_seen_while_it_starts_answers_and_is_gone():
    engine = answering()
    engine.open.clear()
    with serving(scripted(engine)) as service:
        assert service.service is not None
        service.service.telemetry.introduce({"prompt": "bare", "frozen_digest": "f" * 64, "engine": "\x1b[2J"})
        watching = watched(service.port)
        assert watching.look().state == "starting"
        engine.open.set()
        service.wait_for((200, {"status": "batch"}))
        service.predict(["a", "b", "c"])
        service.call("POST", "/predict", b"{}")
        time.sleep(1.1)
        seen = watching.look()
        assert (seen.state, seen.in_flight, seen.in_flight_limit, seen.waiting) == ("ready", 0.0, 4096.0, None)
        assert seen.errors == {"requests invalid": 1.0}, "that it was asked before it was ready is none"
        assert (seen.restarts, seen.failed_starts, seen.overrides) == (0.0, 0.0, ["scheduler=default"])
        window = seen.last_10_s
        assert window is not None
        assert window.questions_per_s * window.seconds == pytest.approx(3)
        assert window.output_tokens_per_s * window.seconds == pytest.approx(9)
        assert window.ttft_ms_p50 == pytest.approx(17.5)  # 20 ms lies between 10 and 25
        assert 100 < window.e2e_latency_ms_p99 < 250  # type: ignore[operator]
        text = "\n".join(lines(seen))
        assert f"http://127.0.0.1:{service.port} is ready, up " in text
        assert "serves prompt bare, engine ?[2J (frozen ffffffffffffffff)" in text
        assert "errors since the start: requests invalid 1" in text
        assert "; in flight 0 of 4,096, waiting n/a, KV cache n/a; errors 1; " in line(seen)
        assert json.loads(as_json(seen))["last_10_s"]["ttft_ms_p50"] == pytest.approx(17.5)
        service.service.look()
        engine.dead = True
        until(lambda: engine.starts == 2 and watching.look().state == "ready")
        assert watching.look().restarts == 1.0
    assert watching.look().state == "gone"


def test_a_server_that_goes_away_is_gone_until_it_is_back_and_its_new_counters_are_no_loss():
    with serving(scripted(answering())) as service:
        service.wait_for((200, {"status": "batch"}))
        watching, port = watched(service.port), service.port
        service.predict("a")
        assert watching.look().state == "ready"
    gone = watching.look()
    assert (gone.state, gone.last_10_s) == ("gone", None)
    assert "refused" in lines(gone)[0]
    assert line(gone).endswith(str(gone.why))
    assert view(gone)
    with serving(scripted(answering()), port=port) as service:
        service.wait_for((200, {"status": "batch"}))
        assert watching.look().state == "ready"


def test_one_snapshot_says_by_its_exit_code_whether_the_server_is_ready(ran):
    with serving(scripted(answering())) as service:
        service.wait_for((200, {"status": "batch"}))
        address = f"url=http://127.0.0.1:{service.port}"
        code, out = ran(address, "once=true")
        assert (code, out.splitlines()[0].partition(",")[0]) == (0, f"{address[4:]} is ready")
        assert "questions/s since the start: " in out
        code, out = ran(address, "once=true", "json=true")
        assert (code, json.loads(out)["state"]) == (0, "ready")
    code, out = ran(address, "once=true")
    assert (code, out) == (1, f"{address[4:]} is unreachable: [Errno 111] Connection refused\n")


def test_a_key_is_wanted_in_one_line_and_sent(ran, tmp_path):
    with serving(scripted(answering()), keys=Keys([KEY])) as service:
        service.wait_for((200, {"status": "batch"}))
        address = f"url=http://127.0.0.1:{service.port}"
        with pytest.raises(UserError, match=r"^keys_file: .* answers HTTP 401 without a key; name a file with keys_file=FILE"):
            ran(address, "once=true")
        (tmp_path / "keys").write_text(KEY)
        assert ran(address, "once=true", f"keys_file={tmp_path / 'keys'}")[0] == 0


@pytest.fixture
def other_server() -> Iterator[list[Any]]:
    """A server that is none of ours, as its address and its status: a fake, because ours cannot be another."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(said[1])
            self.end_headers()
            self.wfile.write(b"<html>\x1b[2J</html>")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with another_server(Handler) as address:
        said = [f"url={address}", 200]
        yield said


def test_another_server_is_refused_and_a_proxy_before_nobody_is_waited_for(ran, other_server):
    with pytest.raises(UserError, match=r"^url: .* is no gpuqa server \(GET /readyz: HTTP 200 <html> \[2J</html>\)$"):
        ran(other_server[0], "once=true")
    other_server[1] = 502
    assert ran(other_server[0], "once=true") == (
        1,
        f"{other_server[0][4:]} is unreachable: GET /readyz: HTTP 502 <html> [2J</html>\n",
    )


@pytest.mark.slow
def test_without_a_terminal_there_is_a_line_an_interval_and_a_closed_pipe_ends_it(tmp_path):
    with serving(scripted(answering())) as service:
        words = [sys.executable, "-m", "gpuqa.watch", f"url=http://127.0.0.1:{service.port}", "--json"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=child_environment(), cwd=tmp_path) as process:
            assert process.stdout is not None
            times = [json.loads(process.stdout.readline())["time"] for _ in range(3)]
            assert all(0.9 < later - earlier < 3 for earlier, later in pairwise(times))
            process.stdout.close()
            assert process.wait(30) == 0
    done = run_command("watch", "url=host:1", cwd=tmp_path)
    assert (done.returncode, done.stderr[:25]) == (2, "error: url: got 'host:1',")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_the_view_stays_in_place_until_a_signal_ends_it(tmp_path, ending):
    """The terminal is a real pseudo-terminal of 80 columns."""
    with serving(scripted(answering())) as service:
        service.wait_for((200, {"status": "batch"}))
        ours, its = pty.openpty()
        environment = {**child_environment(), "COLUMNS": "80", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "gpuqa.watch", f"url=http://127.0.0.1:{service.port}"]
        with subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=environment, cwd=tmp_path) as process:
            os.close(its)
            seen = ""
            deadline = time.monotonic() + 60
            while seen.count("is ready") < 2:
                assert time.monotonic() < deadline
                seen += os.read(ours, 65536).decode()
            process.send_signal(ending)
            with suppress(OSError):  # how Linux says that the other side is closed
                while piece := os.read(ours, 65536):
                    seen += piece.decode()
            assert process.wait(30) == 130
        os.close(ours)
    assert "Traceback" not in seen
    assert "\x1b[1A" in seen, "it goes up again to write over itself"
    for name in ("10 s", "1 min", "since the start", "questions/s", "latency ms, p50 p95 p99", "prefix cache hits", "KV cache"):
        assert name in seen
    assert seen.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"
