"""What do several replicas answer, over one engine? Real servers, in turn: one POST, and clients with single questions.

    export PYTHONPATH=.
    python experiments/serving/replicas.py out=/tmp/replicas model=/tmp/model --engine vllm_hopper --budget 240
    python experiments/serving/replicas.py out=/tmp/replicas model=/tmp/tiny --tiny --prefixes 50 --questions 24 --tokens 8

For each prefix (tokens of the system prompt that all questions share) `gpuqa.serve` is started twice: with one engine on the
first GPU, and with `http.replicas=2`. All of them live side by side, and every round asks each in turn. The model is written
if the folder holds none. The rows, n being --questions:

    one.post, two.post         one POST of n, to one engine and to two replicas
    two.twice                  one POST of 2 n, to two replicas
    one.clients, two.clients   2 n questions from --clients, each of which asks again when it has its answer
    one.half                   n questions from half of the clients: what each of the two replicas has to do

Ratios are those of one round, of questions a second: `efficiency` is two.twice over one.post, halved; `one POST` two.post over
one.post; `clients` two.clients over one.clients; `clients, halved` two.clients over one.half, halved. `front` is the CPU
time of the server's own process, which with one engine tokenizes and follows every step, and with replicas has HTTP alone.
Results: replicas.json with every value, logs, and the table, last. Exit codes: 0 every ratio was measured, 1 not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "speed"))

from client import answers  # noqa: E402
from processes import Peer, PeerFailed  # noqa: E402
from questions import question_texts, system_prompt  # noqa: E402
from settings import child_env, engine_args  # noqa: E402
from yardstick import pair, write_model  # noqa: E402

from gpuqa import frozen  # noqa: E402
from gpuqa.config.app import compose_cell  # noqa: E402
from gpuqa.config.pipeline import ModelConfig, PromptConfig, QuantizationConfig, SamplingConfig  # noqa: E402
from gpuqa.measure import fingerprint, metrics  # noqa: E402
from gpuqa.measure.metrics import Overhead  # noqa: E402
from gpuqa.records import Answered, Completion  # noqa: E402
from gpuqa.study import study  # noqa: E402

ADDRESS = re.compile(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")
SLACK_S = 10.0  # of the budget, for the end
RATIOS = {  # name: row below, row above, the number of replicas by which it is divided
    "efficiency": ("one.post", "two.twice", 2),
    "one POST": ("one.post", "two.post", 1),
    "clients": ("one.clients", "two.clients", 1),
    "clients, halved": ("one.half", "two.clients", 2),
}


@dataclass(frozen=True)
class Row:
    """What one server is asked."""

    key: str
    replicas: int
    batches: int  # of --questions
    clients: float = 0.0  # share of --clients that ask single questions; 0: one POST


ROWS = (
    Row("one.post", 1, 1),
    Row("two.twice", 2, 2),
    Row("two.post", 2, 1),
    Row("one.clients", 1, 2, 1.0),
    Row("two.clients", 2, 2, 1.0),
    Row("one.half", 1, 1, 0.5),
)


@dataclass
class Server:
    """A `gpuqa.serve` that is ready."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    def wait(self, until: float) -> None:
        """Until it says that it is ready."""
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if found := ADDRESS.search(self.log.read_text(errors="replace")):
                self.port = int(found[1])
                if answers(self.port, "/readyz"):
                    return
            time.sleep(0.2)
        raise SystemExit(f"{self.log.name}: it was not ready: {self.log.read_text(errors='replace')[-3000:]}")

    def cpu_s(self) -> float:
        """CPU time of its own process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


def main() -> int:
    """Freeze, serve, measure in turn, print the table."""
    arguments = parse(sys.argv[1:])
    ends = time.monotonic() + arguments.budget - SLACK_S
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` runs
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_model(arguments)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    records: list[dict[str, Any]] = []
    with serving(arguments, tokenizer, ends) as servers:
        try:
            measure(servers, arguments, tokenizer, ends, records)
        except PeerFailed as error:
            print(f"ended early: {error}", flush=True)
    machine = {**fingerprint.environment(), "cores": os.cpu_count(), "commit": fingerprint.git_commit()}
    said = {key: str(value) for key, value in vars(arguments).items() if key != "places"}
    content = {"machine": machine, "arguments": said, "records": records}
    (arguments.out / "replicas.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    lines = table(records, arguments)
    print("\n".join([machine["device"], "", *lines]))
    return 0 if len(lines) == 2 + len(arguments.prefixes) * (len(ROWS) + len(RATIOS)) else 1


def parse(words: list[str]) -> argparse.Namespace:
    """The command line, as the yardstick's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs=2, type=pair, metavar="out=FOLDER model=FOLDER")
    parser.add_argument("--engine", help="the option of conf/engine; vllm, or vllm_cpu with --tiny, by default")
    parser.add_argument("--engine-args", type=pair, nargs="+", action="extend", default=[], metavar="K=V")
    parser.add_argument("--prefixes", default="500,50")
    parser.add_argument("--questions", type=int, default=358)
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of every answer")
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-gib", type=float, default=26.0, help="KV cache of each engine; four are on the first GPU")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds for everything")
    parser.add_argument("--tiny", action="store_true", help="a two-layer model and a CPU's settings")
    arguments = parser.parse_args(words)
    places = dict(arguments.places)
    arguments.out, arguments.model = Path(places["out"]).absolute(), Path(places["model"]).absolute()
    arguments.prefixes = [int(prefix) for prefix in arguments.prefixes.split(",")]
    return arguments


@contextlib.contextmanager
def serving(arguments: argparse.Namespace, tokenizer: Any, ends: float) -> Iterator[dict[tuple[int, int], Server]]:
    """Servers by prefix and replicas; all start side by side."""
    servers: dict[tuple[int, int], Server] = {}
    began = time.monotonic()
    try:
        for prefix in arguments.prefixes:
            file = freeze(arguments, system_prompt(tokenizer, prefix), arguments.out / f"frozen_{prefix}.yaml")
            for replicas in (1, 2):
                servers[prefix, replicas] = start(arguments, file, replicas, arguments.out / f"serve_{prefix}_{replicas}.log")
        for server in servers.values():
            server.wait(ends)
        print(f"[{time.monotonic() - began:.0f} s] {len(servers)} servers are ready", flush=True)
        yield servers
    finally:
        for server in servers.values():
            server.process.send_signal(signal.SIGTERM)
        for server in servers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(10)
            for process in psutil.Process(server.process.pid).children(recursive=True) if server.process.poll() is None else []:
                process.kill()
            server.process.kill()


def freeze(arguments: argparse.Namespace, system: str, file: Path) -> Path:
    """A frozen file whose measurement is of nothing; see `experiments/speed/startup.py`."""
    engine = arguments.engine or ("vllm_cpu" if arguments.tiny else "vllm")
    cell = compose_cell("experiment=none", f"engine={engine}")
    cell = replace(
        cell,
        model=ModelConfig(name="speed", path=str(arguments.model)),
        prompt=PromptConfig(name="speed", system=system),
        quantization=QuantizationConfig(name="none"),
        engine=replace(cell.engine, args={**cell.engine.args, **engine_args(arguments)}),
        sampling=SamplingConfig(name="speed", temperature=0.0, max_tokens=arguments.tokens, ignore_eos=True),
    )
    [prepared] = study.prepare([(cell, {})])
    nothing = Answered([Completion("-", "stop", 1, 1, 0, False, 1.0, 1.0)], 1.0, [1.0])
    numbers = metrics.measure([nothing], metrics.score_answers(prepared.questions[:1], nothing), Overhead(0.0, 0.0, 0.0))
    frozen.freeze(frozen.Winner(prepared.trial(numbers), []), cell.selection, "made to measure replicas", file)
    return file


def start(arguments: argparse.Namespace, file: Path, replicas: int, log: Path) -> Server:
    """A server of one engine on the first GPU, or of replicas on all."""
    command = [sys.executable, "-m", "gpuqa.serve", f"frozen={file}", "http.host=127.0.0.1", "http.port=0", "http.logs=text"]
    first = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]} if replicas == 1 else {}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, f"http.replicas={replicas}"], stdout=stream, stderr=stream, env={**child_env(arguments), **first}
        )
    return Server(process, log)


def measure(
    servers: dict[tuple[int, int], Server], arguments: argparse.Namespace, tokenizer: Any, ends: float, records: list[Any]
) -> None:
    """Every row in turn until the rounds or the budget are at their end; round -1 is a warm-up."""
    began, lasted = time.monotonic(), dict[tuple[str, int], float]()
    client = Peer([str(HERE.parent / "speed" / "client.py")], arguments.out / "client.log", child_env(arguments))
    try:
        for turn in range(-1, arguments.rounds):
            for prefix in arguments.prefixes:
                for row in ROWS:
                    if time.monotonic() + lasted.get((row.key, prefix), 0.0) > ends or (turn < 0 and row.clients):
                        continue
                    texts = question_texts(tokenizer, row.key, prefix, turn, arguments.questions * row.batches)
                    record = ask(servers[prefix, row.replicas], row, texts, arguments.clients, client)
                    lasted[row.key, prefix] = record["seconds"]
                    if turn >= 0:
                        records.append({"row": row.key, "prefix": prefix, "round": turn, **record})
                    print(f"[{time.monotonic() - began:.0f} s] round {turn + 1} prefix {prefix} {row.key}: "
                          f"{record['seconds']:.3f} s, front {record['front_cpu_s']:.2f} s", flush=True)  # fmt: skip
    finally:
        client.kill()


def ask(server: Server, row: Row, texts: list[str], clients: int, client: Peer) -> dict[str, Any]:
    """One value of a row.

    Raises:
        PeerFailed: an answer is missing or empty.
    """
    prompts: list[Any] = texts if row.clients else [texts]
    bodies = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts]
    before = server.cpu_s()
    reply = client.ask(
        {"port": server.port, "path": "/predict", "bodies": bodies, "clients": int(clients * row.clients) or 1}, 120
    )
    if reply["answers"] != len(texts) or reply["empty"] == len(texts):
        raise PeerFailed(f"{row.key}: of {len(texts)} questions {reply['answers']} were answered, {reply['empty']} empty")
    return {"seconds": reply["seconds"], "questions": len(texts), "front_cpu_s": round(server.cpu_s() - before, 3)}


def table(records: list[dict[str, Any]], arguments: argparse.Namespace) -> list[str]:
    """Medians of each row, then the ratios of each round: geometric mean, lowest, highest."""
    lines = ["| prefix | row | questions | rounds | median | lowest to highest | front CPU s |", "| --- " * 7 + "|"]
    for prefix in arguments.prefixes:
        of = [record for record in records if record["prefix"] == prefix]
        for row in ROWS:
            mine = [record for record in of if record["row"] == row.key]
            if not mine:
                continue
            times = [record["seconds"] for record in mine]
            front = statistics.median(record["front_cpu_s"] for record in mine)
            spread = f"{statistics.median(times):.3f} s | {min(times):.3f} to {max(times):.3f} s | {front:.2f}"
            lines.append(f"| {prefix} | {row.key} | {mine[0]['questions']} | {len(mine)} | {spread} |")
        for name, (one, two, replicas) in RATIOS.items():
            rates = {(record["row"], record["round"]): record["questions"] / record["seconds"] for record in of}
            ratios = [rates[two, turn] / rates[one, turn] / replicas for turn in range(arguments.rounds)
                      if {(one, turn), (two, turn)} <= rates.keys()]  # fmt: skip
            if ratios:
                spread = f"{statistics.geometric_mean(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f}"
                lines.append(f"| {prefix} | **{name}** | | {len(ratios)} | {spread} | |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
