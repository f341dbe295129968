"""How many times as fast is one of ours as another, over several starts of all of them?

    python experiments/speed/starts.py out=/tmp/starts model=/tmp/bench_model --starts 3 --over l.batch \
        --only d.batch,k.batch,l.batch --before /tmp/other_checkout --engine vllm_hopper --kv-gib 26 --repeats 5 --budget 95

Each start is a run of yardstick.py, which takes all other words, in a folder of its own below `out`. The last lines are, for
each row and prefix, how many times as fast as the row `--over` it is: batches are paired by their turn, and the starts'
geometric means give the interval (95 %, t on the logarithms). starts.json has the same. Exit codes are the yardstick's, of the
worst start.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpuqa.measure.statistics import t_quantile

HERE = Path(__file__).resolve().parent
Records = list[dict[str, Any]]  # of one start


def main() -> int:
    """All starts, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--over", default="d.batch", help="the row that the others are compared with")
    arguments, words = parser.parse_known_args()
    [out] = [Path(word.partition("=")[2]).absolute() for word in words if word.startswith("out=")]
    words = [word for word in words if not word.startswith("out=")]
    codes, starts = [], []
    for start in range(1, arguments.starts + 1):
        folder = out / f"start{start}"
        codes.append(subprocess.run([sys.executable, str(HERE / "yardstick.py"), f"out={folder}", *words]).returncode)
        starts.append(json.loads((folder / "yardstick.json").read_text())["records"])
    found = ratios(starts, arguments.over)
    (out / "starts.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found, arguments.over))
    return max(codes)


def ratios(starts: list[Records], over: str) -> Records:
    """For each row and prefix: how many times as fast as the row `over` each start was, their mean, and its interval."""
    found = []
    for row, prefix in dict.fromkeys((one["row"], one["prefix"]) for records in starts for one in records):
        logs = [log for records in starts if (log := log_ratio(records, row, over, prefix)) is not None]
        if row == over or not logs:
            continue
        mean, known = statistics.fmean(logs), len(logs) > 1
        half = t_quantile(0.95, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs)) if known else math.inf
        interval = {"low": math.exp(mean - half), "high": math.exp(mean + half)} if known else {}
        each = [math.exp(log) for log in logs]
        found.append({"row": row, "prefix": prefix, "ratio": math.exp(mean), **interval, "starts": each})
    return found


def log_ratio(records: Records, row: str, over: str, prefix: int) -> float | None:
    """The logarithm of how many times as fast a start's row is; None where no repeat has both."""
    times = {(one["row"], one["repeat"]): one["seconds"] for one in records if one["prefix"] == prefix}
    pairs = [
        (times[over, repeat], seconds) for (name, repeat), seconds in times.items() if name == row and (over, repeat) in times
    ]
    return statistics.fmean(math.log(reference / seconds) for reference, seconds in pairs) if pairs else None


def table(found: Records, over: str) -> str:
    """Markdown."""
    lines = [f"| row | prefix | times as fast as {over} | each start |", "| --- | --- | --- | --- |"]
    for one in found:
        interval = f" ({one['low']:.3f} to {one['high']:.3f})" if "low" in one else ""
        each = ", ".join(f"{ratio:.3f}" for ratio in one["starts"])
        lines.append(f"| {one['row']} | {one['prefix']} | {one['ratio']:.3f}{interval} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
