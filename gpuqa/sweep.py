"""Run a study: every combination of the axes, measured, judged, and the winner frozen.

    python -m gpuqa.sweep                                              # the default study
    python -m gpuqa.sweep prompt=bare,structured quantization=none,fp8 engine.args.max_num_seqs=256,512
    python -m gpuqa.sweep experiment=none prompt=expert study.name=one # a single cell
    python -m gpuqa.sweep experiment=rtx5090 plan=true                 # what it would take; starts nothing

Exit codes: 0 a winner is frozen, 1 no trial is eligible, 2 the input is wrong, 130 interrupted (Ctrl-C or SIGTERM).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from gpuqa.config import UserError, check
from gpuqa.config.app import INTERRUPTED, end_like_ctrl_c, run_command
from gpuqa.config.cells import Cells
from gpuqa.config.command_line import command_line
from gpuqa.config.commands import CellConfig, StudyConfig, SweepConfig, resolve
from gpuqa.config.measurement import Rule
from gpuqa.config.pipeline import Backend
from gpuqa.engines import gpus_of_engine
from gpuqa.engines.vllm import compat
from gpuqa.machine import hardware
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.measure.fingerprint import Stage
from gpuqa.pipeline.dataset.summary import Summary
from gpuqa.pipeline.sampling import sampling_notes
from gpuqa.readiness import State
from gpuqa.readiness.memory import memory
from gpuqa.records import Trial
from gpuqa.selection.decision import decide
from gpuqa.selection.wording import counted
from gpuqa.study import executors, finalists, run_file, start_noise, study
from gpuqa.study.cell_checks import CellChecks
from gpuqa.study.conclusion import conclude
from gpuqa.study.executors.places import Place, unlike
from gpuqa.study.finals import schedule_of
from gpuqa.study.grid import group_by_engine
from gpuqa.study.journal import Journal
from gpuqa.study.outlook import lines_of, outlook_of
from gpuqa.study.output import Output, output_of
from gpuqa.study.run_file import RunFile
from gpuqa.study.same_effect import Effects, asked_for
from gpuqa.study.study_file import refuse_another_study


def main() -> None:
    """Enter with conf/sweep.yaml."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    signal.signal(signal.SIGTERM, end_like_ctrl_c)
    run_command(sweep, "sweep")


def sweep(composed: Cells) -> int:
    """All cells (the study sweeper hands them over at once) -> exit code."""
    checks = CellChecks()
    configs, output = checked(composed, checks)
    where, questions, plan = one_study(configs), checks.summary(configs[0]), any(config.plan for config in configs)
    with executors.opened(configs, output.say, ahead=plan) as places:
        environment = places[0].environment if places else {}
        cells = study.prepare(list(zip(configs, composed.axes, strict=True)), checks, environment)
        announce(cells, questions, places, output)
        journal = Journal(where.folder)
        if plan:
            at_once = len(places) or configs[0].executor.workers or 1
            return look_ahead(cells, checks, journal, at_once, output)
        with journal.locked():
            run = RunFile(command_line("sweep", *sys.argv[1:]), fingerprint.git_commit() or "", checks.sent_prompts)
            return measure(cells, questions, run, places, output)


def measure(cells: Sequence[Cell], questions: Summary, run: RunFile, places: Sequence[Place], output: Output) -> int:
    """Measure what is missing of a study whose journal the caller has locked, judge it and freeze the winner -> exit code."""
    began, config = time.perf_counter(), cells[0].config
    journal = Journal(config.study.folder)
    begin(cells, questions, journal, output)
    run_file.write(config.study.folder, run)
    try:
        with output.watch(cells, journal.engine_log, places=len(places)) as observer:
            outcome = asyncio.run(study.run(cells, journal, observer, places))
        output.say(summary(outcome, time.perf_counter() - began))
        measure_finalists(cells, outcome.trials, journal, output, places)
    except KeyboardInterrupt:
        return interrupted(cells, journal, output)
    return conclude(outcome.trials, config.study, config.selection, journal, output)


def begin(cells: Sequence[Cell], questions: Summary, journal: Journal, output: Output) -> None:
    """Write down which trials are the study, after what is there from earlier.

    Raises:
        UserError: the folder has another study.
    """
    where, rule = cells[0].config.study, cells[0].config.selection
    for problem in journal.problems():
        output.say(problem, style="yellow")
    refuse_another_study(cells, journal.earlier(), where)
    noise = start_noise.usual(Path(where.root), str(cells[0].fingerprint["device"]), where.name)
    journal.write_study([(cell.key, cell.axes) for cell in cells], where.finalists, questions, rule, noise)


def checked(composed: Cells, checks: CellChecks) -> tuple[list[SweepConfig], Output]:
    """All cells, after what can be checked in milliseconds, and where the study says what it does; what follows takes seconds,
    and that is said.

    Raises:
        UserError: in any cell, or the folder of the study is of another format.
    """
    outputs: list[Output] = []

    def begin(configs: Sequence[CellConfig]) -> None:
        where = one_study(configs)
        Journal(where.folder).refuse_other_format()
        outputs.append(output_of(where, "gpuqa.sweep"))
        outputs[0].say(f"checking {counted(len(composed.overrides), 'cell')} before an engine starts")

    return composed.each(lambda config: checks.checked(resolve(config, SweepConfig)), begin), outputs[0]


def announce(cells: Sequence[Cell], questions: Summary, places: Sequence[Place], output: Output) -> None:
    """Say what the study is, and what its user might not expect of it, before anything starts."""
    effects, config = Effects(cells), cells[0].config
    copies = {trial.key for trial in effects.copies()}
    measured = [cell for cell in cells if cell.key not in copies]
    sizes = counted(len(cells), "trial") + (f", {len(measured)} of them measured," if copies else "")
    sizes += f" on {counted(len(group_by_engine(measured)), 'engine')}"
    if places:
        sizes += f", side by side on {'; '.join(place.name for place in places)}"
    output.say(f"{config.study.name}: {sizes}; {setting(cells, effects)}", event="study", facts={"trials": len(cells)})
    for line in questions.lines():
        output.say(line, event="questions")
    notes = [*([config.model.note] if config.model.note else []), *sampling_notes(cell.config for cell in cells)]
    for note in [*notes, *effects.notes(), *filter(None, [unlike(places)])]:
        output.say(note, style="yellow")


def look_ahead(cells: Sequence[Cell], checks: CellChecks, journal: Journal, places: int, output: Output) -> int:
    """Say what the study would take, and whether its engines fit into memory -> exit code. Nothing starts or is written."""
    outlook = outlook_of(cells, journal, places)
    sizes, *others = lines_of(outlook, cells[0].config.study)
    output.say(sizes, event="plan", facts=asdict(outlook))
    for line in others:
        output.say(line)
    for finding in memory([cell.config for cell in cells], checks, hardware.gpus()):
        output.say(f"memory: {finding.text}", "" if finding.state is State.ok else "yellow", "memory", asdict(finding))
    output.say("plan=true: nothing was started")
    return 0


def measure_finalists(
    cells: Sequence[Cell], trials: Sequence[Trial], journal: Journal, output: Output, places: Sequence[Place] = ()
) -> None:
    """Measure the trials that may win again, in fresh engines: the best of many first measurements is too good to be true."""
    rule = cells[0].config.selection
    contest = finalists.contest(trials, rule, journal)
    by_key = {cell.key: cell for cell in cells}
    again = [replace(by_key[trial.key], stage=Stage.finals) for trial in contest.choice.finalists]
    if not again:
        return
    began, limit = time.perf_counter(), cells[0].config.study
    are = "finalist is" if len(again) == 1 else "finalists are"
    schedule = schedule_of(again, contest.choice.finalists, places)
    least = f"{schedule.looks[0]} times each at least, {schedule.looks[-1]} at most"
    until = f"until they are decided or {limit.seconds:g} s are spent: {least}"
    output.say(f"{len(again)} {are} measured again, {until} (study.finalists, max_repeats, seconds)", event="finals")
    with output.watch(again, journal.engine_log, schedule.looks[-1], len(places)) as observer:
        outcome = asyncio.run(study.run_finals(again, journal, observer, contest.undecided, schedule))
    output.say(summary(outcome, time.perf_counter() - began))
    chosen = finalists.winner_of(trials, rule, journal)
    if chosen is None:
        return
    output.say("the winner is measured once more, by passes that did not choose it", event="confirmation")
    confirmed = [replace(by_key[chosen.key], stage=Stage.confirmation)]
    with output.watch(confirmed, journal.engine_log) as observer:
        asyncio.run(study.run(confirmed, journal, observer, places[:1]))
    start_noise.note_finals(limit, str(cells[0].fingerprint["device"]), contest.choice.finalists, journal)


def interrupted(cells: Sequence[Cell], journal: Journal, output: Output) -> int:
    """Show what there is; nothing is frozen, because the rest may win."""
    trials = journal.read_study()
    ended = {trial.key for trial in journal.read().values() if trial.error is None}
    keys = [key for cell in cells for stage in Stage if (key := replace(cell, stage=stage).key) not in ended]
    passes = counted(sum(len(journal.read_passes(key)) for key in keys), "pass", "passes")
    if trials:
        rule = cells[0].config.selection
        output.leaderboard(decide(trials, rule), f"Study {cells[0].config.study.name} so far", rule)
    text = f"Interrupted: {len(trials)} of {counted(len(cells), 'trial')} and {passes} of others are kept"
    output.say(f"{text}; nothing was frozen. The same command goes on from here.", style="bold", event="interrupted")
    return INTERRUPTED


def one_study(configs: Sequence[CellConfig]) -> StudyConfig:
    """The study that all cells belong to; what judges them must be one too.

    Raises:
        UserError: an axis varies the study, the rule or the executor.
    """
    first = configs[0]
    for key in ("study", "selection", "executor", "dataset"):
        if any(getattr(config, key) != getattr(first, key) for config in configs):
            several = "; write several GPUs as executor.gpus=[0,1]" if key == "executor" else ""
            raise UserError(f"{key}: must be the same in all cells of a study; run one study for each{several}")
    if any(config.workload.searches for config in configs):
        finalists, racing = first.study.finalists, first.study.racing
        check(finalists == 0, "study.finalists", finalists, "0 with workload=load_search, which repeats the passes that decide")
        check(not racing, "study.racing", racing, "false with workload=load_search")
    refuse_unmeasurable_rule(configs)
    return first.study


def refuse_unmeasurable_rule(configs: Sequence[CellConfig]) -> None:
    """Raise a UserError where a trial would lack the number that the rule ranks by."""
    rule, limits = configs[0].selection.rule, [config.workload.slo.any_limit for config in configs]
    if rule is Rule.goodput and not all(limits):
        raise UserError("selection.rule: goodput counts the answers that keep limits; give some: 'workload.slo={ttft_ms: 200}'")
    gpus = {gpus_of_engine(config.engine_args()) for config in configs}
    if rule is Rule.cheapest and any(hardware.energy_j(count) is None for count in gpus):
        raise UserError("selection.rule: cheapest needs GPUs whose energy NVML counts, and an engine runs on none here")


def setting(cells: Sequence[Cell], effects: Effects) -> str:
    """The engine options that were taken, the machine, and of a study with vLLM which one it is and which overrides run."""
    engines = ", ".join(sorted({cell.config.engine.name for cell in cells}))
    facts = [f"engine={engines} on {cells[0].fingerprint['device']}"]
    with_vllm = [cell.config for cell in cells if cell.config.engine.backend is Backend.vllm]
    if with_vllm:
        facts.append(compat.described())
    asked = Counter(override for config in with_vllm for override in asked_for(config))
    off = Counter(override for reasons in effects.off.values() for override in reasons)
    for override, count in asked.items():
        state = "runs" if not off[override] else "is off" if off[override] == count else "runs in some cells"
        facts.append(f"{override.removeprefix('engine.')} {state}")
    return ", ".join(facts)


def summary(outcome: study.Outcome, seconds: float) -> str:
    """What the study cost, and what sharing engines and racing saved."""
    skipped = sum(trial.skipped is not None for trial in outcome.trials)
    measured = len(outcome.trials) - outcome.kept - skipped
    saved = max(0, measured - outcome.engine_starts)
    dropped = sum(trial.dropped is not None for trial in outcome.trials)
    kept = f", {outcome.kept} kept from an earlier run" if outcome.kept else ""
    kept += f", {skipped} skipped" if skipped else ""
    kept += f", {dropped} dropped before their end" if dropped else ""
    starts = counted(outcome.engine_starts, "engine start") + (f", {saved} saved by sharing" if outcome.engine_starts else "")
    return f"{counted(measured, 'trial')} measured{kept}; {starts}; {seconds:.0f} s"


if __name__ == "__main__":
    main()
