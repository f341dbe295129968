"""How long does a whole study take on one place and on several? The same command, one after the other, finalists included.

    PYTHONPATH=.:$PYTHONPATH python experiments/executors/study_wall.py out=/tmp/wall model=/tmp/model --places gpus=1,gpus=2
    PYTHONPATH=. python experiments/executors/study_wall.py out=/tmp/wall --tiny     # on a CPU: 4 cells, 1 and 2 workers

24 cells on 6 engines: two prompts, two lengths of answers, two formats of the weights, three values of max_num_seqs. Before
the clock runs, a study of one cell of each engine fills the compile caches. Every run is `python -m gpuqa.sweep` with a folder
of its own, from its start to its end. Finals are bounded (`--finals`), so that all runs measure as much. `wall.json` has the
times, the engine starts, and the seconds that measured passes took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpuqa

AXES = [
    "prompt=structured_short,few_shot",
    "sampling.max_tokens=64,128",
    "quantization=none,fp8",
    "engine.args.max_num_seqs=128,256,512",
]
TINY_AXES = ["prompt=bare,structured", "engine.args.max_num_seqs=8,16"]
FIXED = ["experiment=none", "sampling=fixed_length", "selection=fastest"]


def main() -> None:
    """All runs, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="out=FOLDER model=FOLDER")
    parser.add_argument("--places", help="keys of the executor, such as gpus=1,gpus=2")
    parser.add_argument("--finals", type=int, default=3, help="rounds of the finals at most")
    parser.add_argument("--full-caches", action="store_true", help="an earlier run has filled the compile caches")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of all runs")
    arguments = parser.parse_args()
    folders = dict(folder.split("=", 1) for folder in arguments.folders)
    out = Path(folders["out"]).absolute()
    if out.exists():
        parser.error(f"out: {out} exists; a study keeps what an earlier run measured, so choose another folder")
    places = (arguments.places or ("workers=1,workers=2" if arguments.tiny else "gpus=1,gpus=2")).split(",")
    words = [*FIXED, *(of_a_cpu() if arguments.tiny else of_a_gpu(folders["model"])), *arguments.set]
    axes = TINY_AXES if arguments.tiny else AXES
    warm = ["prompt=bare", *(axis for axis in axes if axis.startswith(("quantization", "engine")))]
    if not arguments.full_caches:
        command([*words, *warm, f"executor.{places[-1]}", "study.finalists=0", "workload.repeats=1"], out, "caches")
    finals = ["study.finalists=2", f"study.max_repeats={arguments.finals}"]
    found = [run([*words, *axes, *finals], place, out, number) for number, place in enumerate(places)]
    (out / "wall.json").write_text(json.dumps({"overrides": words, "axes": axes, "runs": found}, indent=1) + "\n")
    print(
        "| place | s | times as fast | engine starts | s of them that passes took |",
        "| --- | --- | --- | --- | --- |",
        sep="\n",
    )
    for one in found:
        print(f"| {one['place']} | {one['s']:.1f} | {found[0]['s'] / one['s']:.2f} | {one['engines']} | {one['pass_s']:.1f} |")


def of_a_gpu(model: str) -> list[str]:
    """Qwen3-0.6B's shape on a card of an H200's size."""
    return ["model=random_qwen3_0_6b", f"model.path={model}", "engine=vllm_hopper", "dataset=embedded_train"]


def of_a_cpu() -> list[str]:
    """The embedded model, few questions."""
    return ["engine=vllm_cpu", "dataset.limit=8", "sampling.max_tokens=8"]


def command(words: list[str], out: Path, name: str) -> None:
    """A study from its start to its end; it may be undecided (exit code 0) or without a winner (1)."""
    line = [sys.executable, "-m", "gpuqa.sweep", *words, f"study.root={out}", f"study.name={name}"]
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (out / f"{name}.log").write_text(done.stdout)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout)


def run(words: list[str], place: str, out: Path, number: int) -> dict[str, Any]:
    """One study, timed."""
    began = time.perf_counter()
    command([*words, f"executor.{place}"], out, str(number))
    seconds, passes = time.perf_counter() - began, gpuqa.load_study(out / str(number)).passes
    print(f"{place}: {seconds:.1f} s", flush=True)
    return {"place": place, "s": seconds, "engines": int(passes.engine_id.nunique()), "pass_s": float(passes.seconds.sum())}


if __name__ == "__main__":
    main()
