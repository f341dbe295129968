"""How fast is our way of driving vLLM beside raw vLLM? One run, one machine, one GPU, everybody in turn.

    python experiments/speed/yardstick.py out=/tmp/speed model=/tmp/bench_model
    python experiments/speed/yardstick.py out=/tmp/speed model=/tmp/tiny_model --tiny --questions 8 --tokens 8   # on a CPU

The model is written if the folder holds none. Results: yardstick.json with every single value, table.md, and a log for
each contestant, all in `out`. Exit codes: 0 everything was measured, 1 something is missing (the table says what).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rows import chosen
from run import Run

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Start, warm up, measure in turn, and write down what there is, however it ends."""
    arguments = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` runs
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_model(arguments)
    run = Run(arguments)
    try:
        run.start()
        run.measure_all()
    finally:
        run.end()
        print(run.save())
    return 1 if run.errors else 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; `out=` and `model=` are words of their own, like everywhere in this project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", type=pair, metavar="out=FOLDER model=FOLDER")
    parser.add_argument("--only", default="", help="rows such as a,b.ids,d.64; all by default")
    parser.add_argument("--prefixes", default="500,50", help="tokens of the shared system prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--questions", type=int, default=358)
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of every answer")
    parser.add_argument("--clients", type=int, default=64)
    kv = "KV cache of each engine; 358 answers need 12.3, in blocks of 32 tokens 13.1, and 26 is what fits with four engines"
    parser.add_argument("--kv-gib", type=float, default=13.0, help=kv)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--start-timeout", type=float, default=240.0, help="seconds; who needs more is out")
    before = "another checkout of this project, which answers rows l, side by side with this one"
    parser.add_argument("--before", type=lambda word: Path(word).resolve(strict=True), metavar="FOLDER", help=before)
    parser.add_argument("--tiny", action="store_true", help="a two-layer model and a CPU's settings")
    parser.add_argument("--engine", help="ours: the option of conf/engine; vllm, or vllm_cpu with --tiny, by default")
    for name in ("engine", "ours", "seed"):
        help_text = f"k=v for {'every vLLM' if name == 'engine' else name}; values are read as JSON where they are"
        parser.add_argument(f"--{name}-args", type=pair, nargs="+", action="extend", default=[], metavar="K=V", help=help_text)
    arguments = parser.parse_args(words)
    places = dict(arguments.places)
    if places.keys() - {"out", "model"} or "out" not in places:
        parser.error(f"needed is out=FOLDER, allowed is model=FOLDER beside it; got {', '.join(places) or 'nothing'}")
    arguments.out = Path(places["out"]).absolute()
    arguments.model = Path(places.get("model", arguments.out / "model")).absolute()
    arguments.prefixes = [int(prefix) for prefix in arguments.prefixes.split(",")]
    try:
        arguments.rows = [row for row in chosen(arguments.only) if arguments.before or row.contestant != "ours_before"]
    except ValueError as error:
        parser.error(str(error))
    return arguments


def pair(word: str) -> tuple[str, Any]:
    """`key=value`; a value that is JSON is read as JSON."""
    key, equals, text = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {word!r}, allowed is key=value")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


def write_model(arguments: argparse.Namespace) -> None:
    """The random model, unless the folder holds one; in its own process, which takes its memory with it."""
    if not (arguments.model / "config.json").exists():
        tiny = ["--tiny"] if arguments.tiny else []
        subprocess.run([sys.executable, str(HERE / "random_model.py"), str(arguments.model), *tiny], check=True)


if __name__ == "__main__":
    sys.exit(main())
