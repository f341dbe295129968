"""Decide a study again, from the trials on disk, by its own rule or by one that differs in what is said here. No engine starts.

    python -m gpuqa.freeze study.name=embedded                                        # by the rule of its sweep
    python -m gpuqa.freeze study.name=embedded selection.min_rouge_l_f1_judge=0.17    # and this floor
    python -m gpuqa.freeze study.name=embedded selection=best_quality                 # another rule, with the study's limits

A winner that was frozen before is kept. Exit codes: 0 a winner is frozen, 1 no trial is eligible, 2 the input is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.errors import MissingConfigException

from gpuqa.config import UserError, did_you_mean, plain
from gpuqa.config.app import run_command
from gpuqa.config.command_line import command_line, study_overrides, terminal
from gpuqa.config.commands import FreezeConfig, StudyConfig, resolve
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.paths import conf_folder
from gpuqa.records import Trial
from gpuqa.selection.wording import counted, listed
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.output import Output, TextOutput
from gpuqa.study.study_file import studies_in

OPTION = ("name", "rule")  # what an option of `selection` is; the rest of it are limits


def main() -> None:
    """Enter with conf/freeze.yaml."""
    run_command(freeze, "freeze")


def freeze(composed: Any) -> int:
    """The composed config -> exit code."""
    config, said = resolve(composed, FreezeConfig), Said.of(composed.hydra)
    journal = Journal(config.study.folder)
    refuse_unfinished(config.study, journal)
    with journal.locked():  # two decisions at once would lose the winner of one
        return decide_again(config, said, journal, TextOutput(terminal()))


@dataclass(frozen=True, slots=True)
class Said:
    """What the command line says."""

    keys: list[str]  # those of its overrides
    folders: list[str]  # of further options, as addresses

    @classmethod
    def of(cls, known: HydraConf) -> Said:
        """What Hydra notes of it."""
        keys = [word.lstrip("+").partition("=")[0] for word in known.overrides.task]
        sources = [source for source in known.runtime.config_sources if source.provider.endswith("command-line")]
        return cls(keys, [f"{source.schema}://{source.path}" for source in sources])


def decide_again(config: FreezeConfig, said: Said, journal: Journal, output: Output) -> int:
    """Say by which rule and on what the study is decided, and decide it -> exit code."""
    trials, problems = journal.read_study(), journal.problems()
    for problem in [*problems, *without_answers(trials, journal)]:
        output.say(problem, style="yellow")
    studied = journal.rule()
    rule = config.selection if studied is None else changed(studied, config.selection, said)
    output.say(f"{decided_by(rule, studied)}.")
    return conclude(trials, config.study, rule, journal, output)


def refuse_unfinished(study: StudyConfig, journal: Journal) -> None:
    """Decide only where all cells of a study have a trial: any other one may be the best.

    Raises:
        UserError: says whether the study was never run, was interrupted, or is damaged.
    """
    folder, trials, problems, unread = journal.study_file.parent, journal.read_study(), journal.problems(), journal.unread()
    if not trials and not unread:
        message = f"study: {folder} holds no trials" + (" that can be read" if problems else "") + studies_beside(study)
        raise UserError("; ".join([message, *problems, f"`{command_line('sweep', *study_overrides(study))}` measures some"]))
    if not unread:
        return
    cells = f"{len(unread)} of {counted(len(trials) + len(unread), 'cell')} {'has' if len(unread) == 1 else 'have'} no trial"
    if problems:
        lost = f"study: {cells} that can be read: {', '.join(unread)}"
        raise UserError("; ".join([lost, *problems, "the sweep's command measures them; nothing was changed"]))
    kept = journal.count_passes()
    passes = f"{counted(kept, 'pass', 'passes')} of them {'is' if kept == 1 else 'are'} kept"
    message = f"study: {folder} was interrupted: {cells} yet ({listed(unread)})"
    raise UserError(f"{message}; {passes}, and the same sweep command goes on from there")


def studies_beside(study: StudyConfig) -> str:
    """The study that a name with a slip may mean, else all that lie beside it; "" where there is none."""
    names = [folder.name for folder in studies_in(Path(study.root)) if folder != study.folder]
    return did_you_mean(study.name, names) or (f"; studies in {study.root}: {listed(names)}" if names else "")


def without_answers(trials: Sequence[Trial], journal: Journal) -> list[str]:
    """A sentence for each measured trial whose answers cannot be read: its constraints are then tested by means alone."""
    bare = [trial for trial in trials if trial.measurement and not journal.answers(trial.key)]
    reason = "is absent or damaged, so means decide and its scores have no interval"
    return [f"{trial.name}: {journal.answers_file(trial.key).name} {reason}" for trial in bare]


def changed(studied: SelectionConfig, composed: SelectionConfig, said: Said) -> SelectionConfig:
    """The study's rule with what this command says over it.

    Where the command names an option (`selection=knee`), the limits that the study has set over its own option stay, as they
    would in a sweep.
    """
    limits_said = [key.removeprefix("selection.") for key in said.keys if key.startswith("selection.")]
    if "selection" not in said.keys:
        return replace(studied, **{key: getattr(composed, key) for key in limits_said})
    own, kept = asdict(option(studied.name, said.folders)), (*OPTION, *limits_said)
    limits = {key: value for key, value in asdict(studied).items() if value != own[key] and key not in kept}
    return replace(composed, **limits)


def option(name: str, folders: Sequence[str]) -> SelectionConfig:
    """An option of `selection` as its file has it.

    Raises:
        UserError: there is no such file here.
    """
    search = f"hydra.searchpath={json.dumps(folders, ensure_ascii=False)}"
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return resolve(compose("freeze", [f"selection={name}", search]), FreezeConfig).selection
    except MissingConfigException as error:
        message = f"selection: the study was decided by selection={name}, which is not here"
        raise UserError(f"{message}; add its folder with --config-dir, or say single keys (selection.KEY=VALUE)") from error


def decided_by(rule: SelectionConfig, studied: SelectionConfig | None) -> str:
    """Which rule decides, and what differs from the study's own."""
    if studied is None:
        return f"Decided by selection={rule.name} of this command: study.yaml does not name the rule of the sweep"
    before, here = plain(asdict(studied)), plain(asdict(rule))
    keys = {key: "selection" if key == "name" else f"selection.{key}" for key in here if here[key] != before[key]}
    changes = [f"{name}={here[key]} (the study has {before[key]})" for key, name in keys.items()]
    floor = f"selection={studied.name}, floor {studied.min_rouge_l_f1_judge:g}"
    return f"Decided by the study's own rule ({floor})" + (f", but with {', '.join(changes)}" if changes else "")


if __name__ == "__main__":
    main()
