"""Play the judge against any URL that speaks the contract: its numbers, and the honest ones.

    python -m gpuqa.evaluate url=http://127.0.0.1:8000
    python -m gpuqa.evaluate url=http://127.0.0.1:8000 dataset=qwen_zh_basic output=basic.json

Exit codes: 0 evaluated, 1 the service was not ready or broke the contract, 2 the input is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from gpuqa.config import check
from gpuqa.config.app import run_command
from gpuqa.config.commands import EvaluateConfig, resolve
from gpuqa.config.http import Status
from gpuqa.machine.files import write_atomically
from gpuqa.measure.metrics import METRICS, Overhead, intervals_of, measure, score_answers, shown
from gpuqa.pipeline import dataset
from gpuqa.pipeline.dataset.summary import summary_of
from gpuqa.records import Answer, Answered, Completion, Interval, Question

BROKEN = 1
POLL_EVERY_S = 0.5


class ContractBroken(Exception):
    """The service did not do what the contract says."""


def main() -> None:
    """Enter with conf/evaluate.yaml."""
    run_command(evaluate, "evaluate")


def evaluate(composed: Any) -> int:
    """Wait, ask, score, write -> exit code."""
    config = resolve(composed, EvaluateConfig)
    questions, summary = dataset.load(config.dataset), summary_of(config.dataset, None)
    folder = Path(config.output).absolute().parent
    check(folder.is_dir(), "output", config.output, f"a file in an existing folder; {folder} is none")
    for line in summary.lines():
        print(line, flush=True)
    try:
        with httpx.Client(base_url=config.url, timeout=config.answer_timeout_s, trust_env=False) as client:
            status, waited_s = wait_until_ready(client, config)
            ask = ask_batch if status is Status.batch else ask_serial
            answered = ask(client, questions)
    except (ContractBroken, httpx.HTTPError) as error:
        print(f"error: {config.url}: {error or type(error).__name__}", file=sys.stderr)
        return BROKEN
    answers = score_answers(questions, answered)
    results = {"url": config.url, "status": status.name, "ready_after_s": waited_s, **summarize(answered, answers)}
    for key, value in results.items():
        print(f"{key:28} {text_of(key, value)}")
    plain = {key: asdict(value) if isinstance(value, Interval) else value for key, value in results.items()}
    plain["questions_file"] = summary.as_dict()
    plain["answers"] = [asdict(answer) for answer in answers]
    write_atomically(Path(config.output), json.dumps(plain, ensure_ascii=False, indent=1))
    print(f"every answer: {config.output}")
    return 0


def wait_until_ready(client: httpx.Client, config: EvaluateConfig) -> tuple[Status, float]:
    """Poll `GET /` until it says how it wants its questions; the time that took, in seconds."""
    began, last = time.perf_counter(), "no answer yet"
    while (waited := time.perf_counter() - began) < config.ready_timeout_s:
        try:
            reply = client.get("/", timeout=5)
            last = f"HTTP {reply.status_code} {reply.text[:200]}"
            if reply.status_code == httpx.codes.OK:
                return Status[reply.json()["status"]], waited
        except httpx.TransportError as error:
            last = f"{type(error).__name__}: {error}"
        except (KeyError, ValueError, TypeError) as error:
            raise ContractBroken(f'GET / must answer {{"status": "batch"}} or {{"status": "ok"}}, got {last}') from error
        time.sleep(POLL_EVERY_S)
    raise ContractBroken(f"not ready within ready_timeout_s={config.ready_timeout_s:g}; last: {last}")


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
    reply = client.post("/predict", json={"prompt": prompt})
    try:
        if reply.status_code == httpx.codes.OK:
            return reply.json()["response"]
    except (KeyError, ValueError, TypeError):
        pass
    raise ContractBroken(f'POST /predict must answer 200 {{"response": ...}}, got HTTP {reply.status_code} {reply.text[:200]}')


def completion(text: Any) -> Completion:
    """An answer that came over the wire: its text is all that is known."""
    return Completion(text if isinstance(text, str) else "", "unknown", 0, 0, 0, False, None, None)


JUDGE = {"judge_accuracy": "rouge_l_f1_judge", "judge_tokens_per_s": "chars_per_s"}  # the judge's names of two metrics


def summarize(answered: Answered, answers: Sequence[Answer]) -> dict[str, Any]:
    """The judge's two numbers first, then every metric that can be told over HTTP, then the intervals of the scores."""
    measurement = measure([answered], answers, Overhead(engine_start_s=0.0, warmup_s=0.0, peak_memory_gib=0.0))
    numbers = {name: getattr(measurement, name) for name, metric in METRICS.items() if metric.over_http}
    intervals = {f"{name}_interval": interval for name, interval in intervals_of(measurement, answers).items() if interval}
    return {**{name: numbers[metric] for name, metric in JUDGE.items()}, **numbers, **intervals}


def text_of(key: str, value: Any) -> str:
    """A result as text."""
    name = JUDGE.get(key, key)
    if name in METRICS:
        return shown(name, value)
    if isinstance(value, Interval):
        return f"{value:.4f} (95 % bootstrap)"
    return f"{value:,.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
