"""How many prompts a minute a search asks on a card, and how much of the time its engine answers nothing.

    python experiments/prompt_search/h200.py out=/tmp/search model=/tmp/bench_model minutes=2
    python experiments/prompt_search/h200.py out=/tmp/search model=/tmp/tiny_model minutes=1 --tiny    # on a CPU

It writes random weights of Qwen3-0.6B's shape to `model` if nothing is there, and 1,280 made-up questions, runs the command
`search` on them, and reads the passes that it kept. Beside its minutes the search starts two engines, the second one for the
end. Much less time is too little for a prompt to answer all 1,024 questions of the search. An engine's idle share is the time
between the first and the last moment of its passes that belongs to none of them. The table comes last; `out` gets it as
search.json, with the command's output as search.log.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WORDS = (
    "what why how when the warp block grid thread kernel shared memory bank conflict occupancy register spill stream event"
    " latency bandwidth cache line atomic reduction tensor core matrix tile pipeline barrier Hopper cudaMalloc cudaMemcpyAsync"
    " 什么是 为什么 如何 请解释 合并访存 共享内存 线程块 线程束 寄存器 占用率 流 事件 核函数 显存 带宽 延迟 同步 原子操作 归约"
)
ON_A_CARD = ("engine=vllm_hopper", "gpu=h200", "search.first_slice=256", "search.children=24")
TINY = ("engine=vllm_cpu", "sampling.max_tokens=16", "search.first_slice=16", "search.children=8", "dataset.limit=160")


def main() -> None:
    """Measure and print."""
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    tiny, out, model = "--tiny" in sys.argv, Path(words["out"]), Path(words["model"])
    out.mkdir(parents=True, exist_ok=True)
    if not (model / "config.json").exists():
        write = [sys.executable, str(HERE.parents[1] / "speed" / "random_model.py"), str(model), *(["--tiny"] if tiny else [])]
        subprocess.run(write, check=True)
    questions = out / "questions.json"
    questions.write_text(json.dumps(made_up(1280), ensure_ascii=False), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "gpuqa.search", "experiment=none", "study.name=search", f"study.root={out}"),
        *("model=random_qwen3_0_6b", f"model.path={model}", f"dataset.path={questions}", "dataset.name=made_up"),
        *("prompt=bare,structured,structured_short", "workload.repeats=1", "study.finalists=0", "selection=weighted"),
        *("selection.min_rouge_l_f1_judge=0", "selection.min_rouge_l_f1_of_best=0", "selection.max_truncated_fraction=1"),
        *("selection.max_empty_fraction=1", "space.examples=[0]", "search.final_share=0.2", "search.selection_share=0"),
        *(f"search.minutes={words.get('minutes', '3')}", *(TINY if tiny else ON_A_CARD)),
    ]
    with (out / "search.log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=HERE.parents[2]).returncode
    if code != 0:
        sys.exit(f"the search ended with {code}:\n{(out / 'search.log').read_text(encoding='utf-8')[-2000:]}")
    lines = (out / "search" / "search" / "passes.jsonl").read_text(encoding="utf-8").splitlines()
    found = summary([json.loads(line) for line in lines])
    (out / "search.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"| {' | '.join(found)} |\n{'| --- ' * len(found)}|\n| {' | '.join(str(value) for value in found.values())} |")


def made_up(count: int) -> list[dict[str, str]]:
    """Questions and answers of random words."""
    draw, words = random.Random("a search on a card"), WORDS.split()
    return [
        {
            "id": f"q{number}",
            "question": f"{number} {' '.join(draw.choices(words, k=30))}",
            "answer": " ".join(draw.choices(words, k=80)),
        }
        for number in range(count)
    ]


def summary(passes: list[dict[str, Any]]) -> dict[str, Any]:
    """What the kept passes tell."""
    engines: dict[str, list[tuple[float, float]]] = {}
    for row in passes:
        measured = row["measured"]
        span = measured["began_at"], measured["began_at"] + measured["answered"]["seconds"]
        engines.setdefault(measured["engine_id"], []).append(span)
    spans = [(min(begin for begin, _ in each), max(end for _, end in each)) for each in engines.values()]
    whole = sum(end - begin for begin, end in spans)
    busy = sum(end - begin for each in engines.values() for begin, end in each)
    prompts, answers = len({row["cell"] for row in passes}), sum(len(row["measured"]["questions"]) for row in passes)
    tokens = sum(one["output_tokens"] for row in passes for one in row["measured"]["answered"]["completions"])
    return {
        "engine starts": len(engines),
        "prompts": prompts,
        "passes": len(passes),
        "answers": answers,
        "seconds": round(whole, 1),
        "prompts a minute": round(prompts / whole * 60, 1),
        "output tokens/s": round(tokens / whole),
        "idle share": f"{1 - busy / whole:.1%}",
    }


if __name__ == "__main__":
    main()
