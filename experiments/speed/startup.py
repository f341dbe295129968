"""How long from the start of the server's process until it says that it is ready?

    PYTHONPATH=.:$PYTHONPATH python experiments/speed/startup.py out=/tmp/startup model=/tmp/bench_model --cold 1 --warm 3
    PYTHONPATH=. python experiments/speed/startup.py out=/tmp/startup model=gpuqa/embedded/model --warm 2 --set engine=vllm_cpu

`python -m gpuqa.serve` as it is, once for each start, asked for `GET /` every 50 ms. A cold start finds none of the caches
in which vLLM, Triton and Inductor keep what they compiled, a warm one those of the start before. Bytecode is there for both,
as pip leaves it: without it `import vllm` compiles PyTorch's sources and takes twice as long. The frozen file is made here
and holds no measured numbers: a start does not depend on them. Results: startup.json and a log for each start.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from client import answers
from yardstick import pair, write_model

from gpuqa import frozen
from gpuqa.config.app import compose_cell
from gpuqa.measure import fingerprint, metrics
from gpuqa.measure.metrics import Overhead
from gpuqa.records import Answered, Completion
from gpuqa.study import study

PATIENCE_S = 300.0
CACHES = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
SAID = re.compile(r"engine started in ([\d.]+) s, \d+ warm-up questions answered in ([\d.]+) s")


def main() -> None:
    """Cold starts first, each with empty caches; the warm ones use the last one's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs=2, type=pair, metavar="out=FOLDER model=FOLDER")
    parser.add_argument("--cold", type=int, default=0)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the cell, as gpuqa.sweep takes them")
    parser.add_argument("--tiny", action="store_true", help="write a two-layer model if the folder holds none")
    arguments = parser.parse_args()
    places = dict(arguments.places)
    out, arguments.model = Path(places["out"]).absolute(), Path(places["model"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_model(arguments)
    file = freeze(arguments.model, arguments.set, out)
    env = with_bytecode(out / "bytecode") | {name: str(out / "caches" / name) for name in CACHES}
    starts = []
    for place in range(arguments.cold + arguments.warm):
        cold = place < arguments.cold
        if cold:
            shutil.rmtree(out / "caches", ignore_errors=True)
        starts.append({"cold": cold, **start(file, env, out / f"start_{place}.log")})
        print(starts[-1], flush=True)
    machine = {**fingerprint.environment(), "cores": os.cpu_count(), "commit": fingerprint.git_commit()}
    (out / "startup.json").write_text(json.dumps({"machine": machine, "set": arguments.set, "starts": starts}, indent=1) + "\n")


def with_bytecode(folder: Path) -> dict[str, str]:
    """The environment with all installed modules compiled into `folder`; some images forbid Python to keep bytecode."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env.setdefault("PYTHONPYCACHEPREFIX", str(folder))
    folders = {path for path in sys.path if Path(path).is_dir()}
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "0", *folders], env=env, stdout=subprocess.DEVNULL)
    return env


def freeze(model: Path, overrides: list[str], out: Path) -> Path:
    """A frozen file of one cell; its measurement is of nothing."""
    fixed = [f"model.path={model}", "prompt=structured_short", "experiment=none"]
    [prepared] = study.prepare([(compose_cell(*fixed, *overrides), {})])
    nothing = Answered([Completion("-", "stop", 1, 1, 0, False, 1.0, 1.0)], 1.0, [1.0])
    numbers = metrics.measure([nothing], metrics.score_answers(prepared.questions[:1], nothing), Overhead(0.0, 0.0, 0.0))
    frozen.freeze(
        frozen.Winner(prepared.trial(numbers), []), prepared.config.selection, "made to measure a start", out / "frozen.yaml"
    )
    return out / "frozen.yaml"


def start(file: Path, env: dict[str, str], log: Path) -> dict[str, Any]:
    """Seconds from the process's start to its first 200, of the engine's start and of the warm-up in between."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "gpuqa.serve", f"frozen={file}", "http.host=127.0.0.1", f"http.port={port}"]
    with log.open("wb") as stream:
        began = time.perf_counter()
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=env)
        try:
            while not answers(port, "/"):
                if server.poll() is not None or time.perf_counter() - began > PATIENCE_S:
                    raise SystemExit(f"the server was not ready: {log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.05)
            seconds = time.perf_counter() - began
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    engine_s, warmup_s = SAID.search(log.read_text(errors="replace")).groups()  # type: ignore[union-attr]
    return {"ready_s": round(seconds, 2), "engine_s": float(engine_s), "warmup_s": float(warmup_s)}


if __name__ == "__main__":
    main()
