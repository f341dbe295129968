"""What does HTTP add to a batch, and what is it made of? CPU time, which a busy machine does not change much.

    PYTHONPATH=. python experiments/speed/http_cost.py

A stand-in engine that answers at once, so that nothing but the way to it is left: `Pipeline.answer` called directly, and one
POST /predict over a socket with uvicorn and the client in this process (so the client's share is in it). Seconds of CPU a
batch of 358 questions, medians of 30 in turn. How it compares with a real engine's batch: `yardstick.py --only c,d.batch`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gpuqa.measure.statistics import median_and_mad
from gpuqa.records import Generation

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from stand_in_service import ScriptedEngine, scripted, serving  # the tests' engine that answers at once

QUESTIONS = [f"{place} 什么是 warp divergence？怎样避免它？" for place in range(358)]
REPEATS = 30


def main() -> None:
    """Print the medians."""
    engine = ScriptedEngine(lambda place: Generation([5 + place % 50] * 128, "stop", 0, 0.1, 0.2))
    engine.open.set()
    body = json.dumps({"prompt": QUESTIONS}).encode()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
        assert served.service is not None
        assert served.service.pipeline is not None
        assert engine.loop is not None
        pipeline, loop = served.service.pipeline, engine.loop
        ways: dict[str, Callable[[], Any]] = {
            "Pipeline.answer": lambda: wait(loop, pipeline.answer(QUESTIONS)),
            "Service.answer": lambda: wait(loop, served.service.answer(QUESTIONS)),  # type: ignore[union-attr]
            "POST /predict": lambda: served.ask("POST", "/predict", body),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, way in ways.items():
                began = time.process_time()
                way()
                seconds[name].append(time.process_time() - began)
    for name, values in seconds.items():
        middle, mad = median_and_mad(values)
        print(f"{name}: {1000 * middle:.2f} ms of CPU (MAD {1000 * mad:.2f})")


def wait(loop: asyncio.AbstractEventLoop, doing: Awaitable[Any]) -> Any:
    """Run something on the server's own loop."""
    return asyncio.run_coroutine_threadsafe(doing, loop).result()  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
