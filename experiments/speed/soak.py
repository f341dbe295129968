"""Does the burst scheduler hold for long? The real engine under random load, every answer compared, every block counted.

    python experiments/speed/soak.py --minutes 10                 # on a CPU
    python experiments/speed/soak.py --minutes 10 --gpu
    python experiments/speed/soak.py --minutes 10 --gpu --control # vLLM's own scheduler under the same load, for comparison

vLLM's own scheduler answers every request alone first; then the burst scheduler gets them again for `--minutes`: random
arrivals, lengths, aborts, greedy and drawn with seeds, in a KV cache small enough to preempt. On a GPU sums depend on what
else is in the batch, so there some answers differ in their last digits; on a CPU in float32 none may.

Memory is read once a second. Its slope, in MiB an hour, is that of a straight line through all values of the second half.
The sampler's kernels are recorded as a CUDA graph for every new batch; how often is counted, because a recording could keep
memory.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that the scheduler can be looked into
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Exit code 0 if every block came back and, on a CPU, every answer was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--control", action="store_true", help="vLLM's own scheduler in the place of the burst scheduler")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    requests = make_requests(rng)
    engine = start(arguments.gpu, {})
    expected = [alone(engine, place, *request) for place, request in enumerate(requests)]
    del engine
    engine = start(arguments.gpu, {} if arguments.control else burst_args())
    recordings = count_recordings()
    if not arguments.control:
        engine.collective_rpc("repeat_steps")
    counted = soak(engine, requests, expected, rng, arguments.minutes * 60)
    scheduler = engine.engine_core.engine_core.scheduler
    while scheduler.has_requests():  # the last ones have been answered and still hold their blocks
        engine.step()
    free, blocks = scheduler.kv_cache_manager.block_pool.get_num_free_blocks(), scheduler.kv_cache_config.num_blocks
    burst = {} if arguments.control else {"steps": scheduler.steps, "recordings": len(recordings)}
    left = len(scheduler.requests)
    if burst:
        left += len(scheduler.handed_out) + len(scheduler.on_their_way) + len(scheduler.leaving)
    print({**counted, **burst, "free_blocks": free, "blocks": blocks, "left_in_the_scheduler": left})
    wrong = bool(counted["different"]) and not arguments.gpu
    return int(wrong or free != blocks - 1 or bool(left))


def make_requests(rng: random.Random) -> list[tuple[list[int], dict[str, Any]]]:
    """Prompts of the embedded questions, each with its way of sampling."""
    from gpuqa.config.pipeline import ModelConfig, PromptConfig
    from gpuqa.pipeline.dataset import read_questions
    from gpuqa.pipeline.prompts import PromptEncoder, load_tokenizer

    tokenizer = load_tokenizer(ModelConfig(name="embedded", path="gpuqa/embedded/model"))
    encoder = PromptEncoder(tokenizer, PromptConfig(name="bare", system="你是 GPU 编程助教。" * 8), 400, False, "embedded")
    questions = [question.text for question in read_questions(ROOT / "gpuqa/embedded/questions/train.json")]
    ways = [{"temperature": 0.0}, {"temperature": 0.0, "ignore_eos": True}, {"temperature": 0.8, "seed": 5}]
    prompts = [encoder.encode(question).token_ids for question in rng.sample(questions, 90)]
    return [(prompt, {**rng.choice(ways), "max_tokens": rng.choice([1, 5, 40, 120, 240])}) for prompt in prompts]


def burst_args() -> dict[str, Any]:
    """The engine arguments behind `engine.scheduler=burst`."""
    from gpuqa.config.app import compose_cell
    from gpuqa.engines.vllm.overrides import choose_scheduler

    return choose_scheduler(compose_cell("experiment=none", "engine=vllm", "engine.scheduler=burst").engine).args


def start(gpu: bool, parts: dict[str, Any]) -> Any:
    """An engine in this process."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    size = (
        {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 16 * 2**20} if gpu else {"kv_cache_memory_bytes": 12 * 2**20}
    )
    arguments: dict[str, Any] = {**parts, "block_size": 32, "enable_prefix_caching": True, **size}
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(ROOT / "gpuqa/embedded/model"),
            dtype="bfloat16" if gpu else "float32",
            max_model_len=768,
            max_num_seqs=48,
            enforce_eager=not gpu,
            **arguments,
        )
    )


def params(way: dict[str, Any]) -> Any:
    """Whole answers, as the server asks for them."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(**way, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)


def alone(engine: Any, place: int, prompt: list[int], way: dict[str, Any]) -> tuple[list[int], str]:
    """The answer of one request with nobody beside it."""
    engine.add_request(f"alone-{place}", {"prompt_token_ids": prompt}, params(way))
    while True:
        for output in engine.step():
            return list(output.outputs[0].token_ids), output.outputs[0].finish_reason


def soak(engine: Any, requests: list[Any], expected: list[Any], rng: random.Random, seconds: float) -> dict[str, Any]:
    """Load until the time is up, then until nothing runs; what was counted."""
    counted = {"answers": 0, "different": 0, "aborted": 0}
    memory: list[tuple[float, dict[str, float]]] = []  # seconds since the beginning, sizes
    running: dict[str, int] = {}
    begun, number = time.monotonic(), 0
    while (spent := time.monotonic() - begun) < seconds or running:
        if spent < seconds and len(running) < 120 and rng.random() < 0.3:
            for _ in range(rng.choice([1, 1, 1, 60])):
                place, number = rng.randrange(len(requests)), number + 1
                engine.add_request(f"r{number}", {"prompt_token_ids": requests[place][0]}, params(requests[place][1]))
                running[f"r{number}"] = place
        if running and rng.random() < 0.01:
            gone = rng.choice(list(running))
            engine.abort_request([gone])
            del running[gone]
            counted["aborted"] += 1
        for output in engine.step():
            if output.finished and (place := running.pop(output.request_id.partition("-")[0], None)) is not None:
                counted["answers"] += 1
                got = (list(output.outputs[0].token_ids), output.outputs[0].finish_reason)
                counted["different"] += got != expected[place]
        if spent > len(memory):
            memory.append((spent, memory_mib()))
    return {**counted, **growth([at for at in memory if at[0] > seconds / 2]), "seconds": round(time.monotonic() - begun)}


def growth(memory: list[tuple[float, dict[str, float]]]) -> dict[str, Any]:
    """The first and last sizes, MiB, and for each the slope of a straight line through all of them, MiB/h."""
    hours = [seconds / 3600 for seconds, _ in memory]
    slopes = {
        name: round(statistics.linear_regression(hours, [sizes[name] for _, sizes in memory]).slope, 1) for name in memory[0][1]
    }
    return {"first_mib": memory[0][1], "last_mib": memory[-1][1], "slope_mib_per_hour": slopes, "readings": len(memory)}


def count_recordings() -> list[None]:
    """A list that gets an entry for each CUDA graph of the sampler from now on."""
    from gpuqa.engines.vllm.burst.runner import SamplingGraph

    own, made = SamplingGraph._record, []  # type: ignore[var-annotated]

    def counted(self: Any, sample: Any) -> None:
        made.append(None)
        own(self, sample)

    SamplingGraph._record = counted  # type: ignore[method-assign]
    return made


def memory_mib() -> dict[str, float]:
    """This process's resident set; on a GPU what the card has handed out, and what PyTorch keeps, CUDA graphs' included."""
    import psutil
    import torch

    sizes = {"rss": psutil.Process().memory_info().rss}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        sizes |= {"gpu": total - free, "pytorch": torch.cuda.memory_reserved()}
    return {name: round(size / 2**20, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    sys.exit(main())
