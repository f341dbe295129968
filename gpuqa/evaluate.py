"""Play the judge against any URL that speaks the contract: its numbers, and the honest ones.

    python -m gpuqa.evaluate url=http://127.0.0.1:8000
    python -m gpuqa.evaluate url=http://127.0.0.1:8000 dataset=qwen_zh_basic output=basic.json
    GPUQA_KEYS=... python -m gpuqa.evaluate url=https://example.org      # or keys_file=FILE: a bearer key, never printed

What a service does not tell is null in the output: times of single answers in batch mode, where one POST answers all, and
what was frozen, where there is no GET /info. Where there is one and the questions are the same, the measured numbers stand
beside the frozen ones; one that lies outside its interval does not change the exit code.

Exit codes: 0 evaluated, 1 the service was not ready or broke the contract, 2 the input is wrong or the service refuses the key.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from gpuqa.config import check, plain
from gpuqa.config.app import run_command
from gpuqa.config.commands import EvaluateConfig, resolve
from gpuqa.config.http import Status
from gpuqa.config.measurement import Issue
from gpuqa.machine.files import write_atomically
from gpuqa.measure.latency import PERCENTILES
from gpuqa.measure.metric_table import METRICS, shown
from gpuqa.measure.metrics import Overhead, intervals_of, measure, score_answers, with_timings
from gpuqa.pipeline import dataset
from gpuqa.pipeline.dataset.summary import summary_of
from gpuqa.records import Answer, Answered, Completion, Interval, Question
from gpuqa.selection.against_frozen import comparable, lines_of
from gpuqa.serving.client import Server, excerpt

BROKEN = 1
POLL_EVERY_S = 0.5
SAY_EVERY_S = 15.0  # what it waits for
INFO_TIMEOUT_S = 10.0
ISSUES = {Status.batch: Issue.batch, Status.ok: Issue.serial}  # how a study issues questions as this command does
ONE_ANSWER_TIMES = [name for name in METRICS if name.startswith("e2e_latency_ms")]
NOT_TOLD = dict.fromkeys(("finish_reason", "output_tokens", "error", "timings"))  # of an answer that came over the contract


class ContractBroken(Exception):
    """The service did not do what the contract says."""


def main() -> None:
    """Enter with conf/evaluate.yaml."""
    run_command(evaluate, "evaluate")


def evaluate(composed: Any) -> int:
    """Wait, ask, score, write -> exit code."""
    config = resolve(composed, EvaluateConfig)
    server = Server.of(config.url, config.keys_file, config.keys_variable)
    file = dataset.load_file(config.dataset)
    questions, summary = file.questions, summary_of(config.dataset, None, file)
    check_output(Path(config.output))
    for line in summary.lines():
        say(line)
    try:
        with server.client(config.answer_timeout_s) as client:
            status, waited_s = wait_until_ready(client, config)
            frozen = read_frozen(client)
            say(f"{len(questions)} questions {'in one POST' if status is Status.batch else 'one after the other'};"
                f" waiting for the answers, at most {config.answer_timeout_s:g} s for each POST")  # fmt: skip
            ask = ask_batch if status is Status.batch else ask_serial
            answered = ask(client, questions)
    except (ContractBroken, httpx.HTTPError, RecursionError) as error:
        print(f"error: {server.without_key(f'{config.url}: {error or type(error).__name__}')}", file=sys.stderr)
        return BROKEN
    answers = score_answers(questions, answered)
    answers = answers if status is Status.batch else with_timings(answers, [answered])
    results = {"url": config.url, "status": status.name, "ready_after_s": waited_s, **summarize(answered, answers, status)}
    for name, value in results.items():
        print(f"{name:28} {text_of(name, value, status)}")
    results |= {"questions_file": summary.as_dict(), "frozen": beside_frozen(frozen, results, questions, status)}
    write(Path(config.output), results, answers, status)
    return 0


def check_output(file: Path) -> None:
    """Refuse a file that could not be written, before minutes are spent on its content.

    Raises:
        UserError: its folder is absent or read-only, or it is a folder itself.
    """
    folder = file.absolute().parent
    check(
        folder.is_dir() and not file.is_dir(),
        "output",
        str(file),
        f"a file in an existing folder; {folder} is where it would be",
    )
    written = file if file.exists() else folder
    check(os.access(written, os.W_OK), "output", str(file), f"a file that can be written; {written} cannot")


def say(sentence: str) -> None:
    """Tell somebody who watches what happens now."""
    print(sentence, flush=True)


def wait_until_ready(client: httpx.Client, config: EvaluateConfig, say_every_s: float = SAY_EVERY_S) -> tuple[Status, float]:
    """Poll `GET /` until it says how it wants its questions; the time that took, in seconds.

    Where nobody listens it waits too, since a container may be starting, and says so at once and then again and again.
    """
    began, last, next_word_s = time.perf_counter(), "", 0.0
    while (waited := time.perf_counter() - began) < config.ready_timeout_s:
        try:
            reply = client.get("/", timeout=5)
            last = excerpt(reply)
            if reply.status_code == httpx.codes.OK:
                return Status[reply.json()["status"]], waited
            if reply.is_redirect:
                raise ContractBroken(f"GET / leads to {reply.headers['Location']!r:.200}; name that address with url=")
        except httpx.TransportError as error:
            last = f"no connection: {type(error).__name__}: {error}"
        except (KeyError, ValueError, TypeError) as error:
            raise ContractBroken(f'GET / must answer {{"status": "batch"}} or {{"status": "ok"}}, got {last}') from error
        if waited >= next_word_s:
            limit = f"at most {config.ready_timeout_s:g} s ({waited:.0f} s so far; Ctrl-C ends the wait)"
            say(f"{config.url} is not ready ({last}); waiting for it, {limit}")
            next_word_s = waited + say_every_s
        time.sleep(POLL_EVERY_S)
    raise ContractBroken(f"not ready within ready_timeout_s={config.ready_timeout_s:g}; last: {last or 'no answer yet'}")


def read_frozen(client: httpx.Client) -> dict[str, Any] | None:
    """What `GET /info` says of the frozen winner; None where it does not tell, as with a service of another project."""
    try:
        reply = client.get("/info", timeout=INFO_TIMEOUT_S)
        frozen = reply.json()["frozen"]
        known = [isinstance(frozen[key], dict) for key in ("measurement", "digests", "setting")]
        return frozen if reply.status_code == httpx.codes.OK and all(known) else None
    except (httpx.TransportError, KeyError, ValueError, TypeError):
        return None


def ask_batch(client: httpx.Client, questions: Sequence[Question]) -> Answered:
    """All questions in one POST; answers that are missing count as empty, as with the judge."""
    began = time.perf_counter()
    texts = post(client, [question.text for question in questions])
    seconds = time.perf_counter() - began
    if not isinstance(texts, list) or len(texts) > len(questions):
        raise ContractBroken(f"POST /predict must answer a list of at most {len(questions)}, got {texts!r:.200}")
    padded = [*texts, *[""] * (len(questions) - len(texts))]
    return Answered([completion(text) for text in padded], seconds, [seconds] * len(questions))


def ask_serial(client: httpx.Client, questions: Sequence[Question]) -> Answered:
    """One POST a question, one after the other."""
    completions, latencies = [], []
    for question in questions:
        began = time.perf_counter()
        text = post(client, question.text)
        latencies.append(time.perf_counter() - began)
        completions.append(completion(text[0] if isinstance(text, list) and text else text))
    return Answered(completions, sum(latencies), latencies)


def post(client: httpx.Client, prompt: str | list[str]) -> Any:
    """The "response" of one POST /predict."""
    try:
        reply = client.post("/predict", json={"prompt": prompt})
    except httpx.ReadTimeout as error:
        seconds = client.timeout.read
        raise ContractBroken(f"POST /predict gave no answer within answer_timeout_s={seconds:g}") from error
    try:
        if reply.status_code == httpx.codes.OK:
            return reply.json()["response"]
    except (KeyError, ValueError, TypeError):
        pass
    raise ContractBroken(f'POST /predict must answer 200 {{"response": ...}}, got {excerpt(reply)}')


def completion(text: Any) -> Completion:
    """An answer that came over the wire: its text is all that is known."""
    return Completion(text if isinstance(text, str) else "", "unknown", 0, 0, 0, False, None, None)


JUDGE = {"judge_accuracy": "rouge_l_f1_judge", "judge_tokens_per_s": "chars_per_s"}  # the judge's names of two metrics


def summarize(answered: Answered, answers: Sequence[Answer], status: Status) -> dict[str, Any]:
    """The judge's two numbers first, then every metric that can be told over HTTP, then the intervals.

    In batch mode the time of one POST is no time of one answer, so that there are no percentiles of it.
    """
    measurement = measure([answered], answers, Overhead(engine_start_s=0.0, warmup_s=0.0, peak_memory_gib=0.0))
    numbers = {name: getattr(measurement, name) for name, metric in METRICS.items() if metric.over_http}
    if status is Status.batch:
        numbers |= dict.fromkeys(ONE_ANSWER_TIMES)
    intervals = {f"{name}_interval": interval for name, interval in intervals_of(measurement, answers).items() if interval}
    return {**{name: numbers[metric] for name, metric in JUDGE.items()}, **numbers, **intervals}


def text_of(key: str, value: Any, status: Status) -> str:
    """A result as text."""
    name = JUDGE.get(key, key)
    if name in ONE_ANSWER_TIMES and status is Status.batch:
        return "n/a (one POST answered all questions)"
    if name in METRICS:
        return shown(name, value)
    if isinstance(value, Interval):
        metric = key.removesuffix("_interval")
        method = "order statistics" if metric in PERCENTILES else "bootstrap"
        return f"{value:{METRICS[metric].form}} (95 % {method})"
    return f"{value:,.4f}" if isinstance(value, float) else str(value)


def beside_frozen(
    frozen: Mapping[str, Any] | None, results: Mapping[str, Any], questions: list[Question], status: Status
) -> dict[str, Any] | None:
    """Print the measured numbers beside the frozen ones -> the same as plain values; None where nothing is known."""
    if frozen is None:
        print("frozen numbers: unknown, since GET /info does not tell them")
        return None
    source = {
        **{key: frozen.get(key) for key in ("digest", "device", "study")},
        "repeats": frozen["measurement"].get("repeats"),
    }
    where = f"study {source['study']}, digest {source['digest']!s:.16}, {source['repeats']} repeats on {source['device']}"
    print(f"frozen numbers: of {where}; these are of one pass")
    numbers, obstacle = comparable(frozen, results, dataset.digest(questions), ISSUES[status])
    for line in [*([obstacle] if obstacle else []), *(lines_of(numbers) if numbers else [])]:
        print(line)
    values = {number.name: {**asdict(number), "inside": number.inside} for number in numbers}
    return {**source, "not_comparable": obstacle, "numbers": values}


def write(file: Path, results: dict[str, Any], answers: Sequence[Answer], status: Status) -> None:
    """The results and every answer as JSON; what the service does not tell is null."""
    values = {key: asdict(value) if isinstance(value, Interval) else value for key, value in results.items()}
    unknown = {**NOT_TOLD, **({"latency_s": None} if status is Status.batch else {})}
    values["answers"] = [{**asdict(answer), **unknown} for answer in answers]
    write_atomically(file, json.dumps(plain(values), ensure_ascii=False, indent=1))
    print(f"every answer: {file}")


if __name__ == "__main__":
    main()
