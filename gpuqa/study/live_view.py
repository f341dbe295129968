"""The last lines of a terminal while a study runs: how far it is, what runs, what comes next.

It is drawn twice a second from what the study has reported. It asks neither the engine nor the GPU, so that nobody pays for it.
"""

from __future__ import annotations

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpuqa.records import Interval, Pass
from gpuqa.selection.comparison import speed
from gpuqa.selection.wording import counted, duration
from gpuqa.study.grid import group_by_engine
from gpuqa.study.watched import Watched

NAMES = len("engine")  # columns


def render(watched: Watched) -> RenderableType:
    """The view: a table of two columns, what and its state."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=NAMES)
    table.add_column(overflow="fold")
    wanted, left = sum(work.passes for work in watched.work.values()), sum(watched.left.values())
    bar = ProgressBar(total=max(1, wanted), completed=wanted - left, width=24)
    head = Table.grid(padding=(0, 1))
    head.add_row(bar, Text(progress_text(watched)))
    table.add_row("study", head)
    for name, text in lines_of(watched):
        table.add_row(name, Text(text, style="yellow" if name == "failed" else ""))
    return table


def progress_text(watched: Watched) -> str:
    """How many trials have ended, the time, and how much of it is left."""
    done = f"{len(watched.ended)} of {counted(len(watched.cells), 'trial')}, {clock(watched.seconds)}"
    left = watched.seconds_left
    if left is None or not watched.left:
        return done
    return f"{done}, {'at most' if watched.limit else 'about'} {duration(left)} left"


def lines_of(watched: Watched) -> list[tuple[str, str]]:
    """What and its state, a line each; what is not known yet has none."""
    lines = [("engine", text) for text in engine_texts(watched)]
    if (last := watched.last) is not None:
        mean, interval = watched.speed_so_far(last.key)
        so_far = f": {speed_text(mean, interval)}" if mean else ""
        lines.append(("last", f"{last.name}, {pass_text(last.measured, watched.work[last.key].passes)}{so_far}"))
        if last.measured.conditions:
            gpu, memory = last.measured.conditions[-1], f"{last.measured.peak_memory_gib:.1f} GiB"
            lines.append(("GPU", f"{gpu.sm_clock_mhz:,} MHz, {gpu.temperature_c} °C, {gpu.power_w:.0f} W, {memory}"))
    if (best := watched.best) is not None and speed(best):
        lines.append(("best", f"{best.name}: {speed(best):,.0f} chars/s"))
    if following := next_text(watched):
        lines.append(("next", following))
    if watched.failures:
        lines.append(("failed", counted(watched.failures, "trial")))
    return lines


def engine_texts(watched: Watched) -> list[str]:
    """What each engine that is up is doing."""
    engines, total = list(watched.engines.values()), len(group_by_engine(watched.cells))
    of = f" of {max(total, watched.starts)}" if not watched.limit else ""
    start = f"start {watched.starts}{of}"
    texts = []
    for state in engines:
        name = f"{state.cell.config.engine.name} ({state.cell.config.quantization.name})"
        doing = "answers for" if state.answers else "starts and warms up for"
        texts.append(f"{name} {doing} {clock(watched.clock() - state.since)}, {start}")
    return texts


def next_text(watched: Watched) -> str:
    """What comes after that."""
    groups = watched.engines_left
    here = sum(watched.left[key] for engine in watched.engines for key in groups.pop(engine, ()))
    texts = [f"{counted(here, 'pass', 'passes')} on this engine"] if here else []
    if groups:
        texts.append(f"{counted(len(groups), 'more engine')} with {counted(sum(map(len, groups.values())), 'trial')}")
    return ", then ".join(texts) + (" at most" if texts and watched.limit else "")


def pass_text(measured: Pass, passes: int) -> str:
    """Which pass of its cell it is."""
    if measured.slice is not None:
        return f"slice {measured.slice + 1}"
    if measured.rate_per_s is not None:
        return f"{measured.rate_per_s:.3g} questions/s"
    return "filled prefix cache" if measured.prefix_cached else f"repeat {measured.repeat + 1} of {passes}"


def speed_text(mean: float, interval: Interval | None) -> str:
    """A speed with its 95 % interval where there is one."""
    return f"{mean:,.0f} chars/s" + (f" ({interval:,.0f})" if interval else "")


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
