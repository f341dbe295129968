"""The frozen winner: every value that decides an answer, the digests of what it was measured with, and its numbers.

`serve` builds its pipeline from this file alone. The file carries its own digest, so that an edit shows.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import RENAMED, UserError, plain
from gpuqa.config.commands import from_plain
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.machine.files import make_folder, write_atomically
from gpuqa.measure import fingerprint
from gpuqa.measure.metrics import intervals_of
from gpuqa.records import Answer, Trial

FORMAT = 2  # of frozen files, and of the lines and study.yaml of a journal: they change together
MAPPINGS = ("axes", "pipeline", "digests", "versions", "measurement")
FIELDS = ("format", *MAPPINGS, "device", "driver", "overrides", "reason", "digest")
GROUPS = ("model", "prompt", "quantization", "engine", "sampling")


def freeze(trial: Trial, answers: Sequence[Answer], rule: SelectionConfig, reason: str, path: Path) -> dict[str, Any]:
    """Write the winner down and return what was written.

    Args:
        answers: of the trial; without them its scores have no interval.

    Raises:
        FileNotWritten: the disk is full, for example; an older file is whole then.
    """
    pipeline = from_plain(trial.pipeline, PipelineConfig, "trial")
    assert trial.measurement is not None
    known, intervals = trial.fingerprint, intervals_of(trial.measurement, answers)
    promised = {f"{name}_interval": asdict(interval) if interval else None for name, interval in intervals.items()}
    content = plain(
        {
            "format": FORMAT,
            "study": path.parent.name,
            "axes": trial.axes,
            "setting": trial.setting,
            "reason": reason,
            "note": pipeline.model.note,
            "pipeline": trial.pipeline,
            "digests": {**known["digests"], "prompt": fingerprint.sha256_of_prompt(pipeline.prompt)},
            "revision": known.get("revision"),
            "versions": known["versions"],
            "device": known["device"],
            "driver": known["driver"],
            "overrides": [asdict(override) for override in trial.overrides],
            "code": known["code"],
            "git_commit": fingerprint.git_commit(),
            "frozen_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "selection": asdict(rule),
            "measurement": {**asdict(trial.measurement), **promised},
            "trial": trial.key,
        }
    )
    content["digest"] = fingerprint.sha256_of(content)
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=120)
    if yaml.safe_load(text) != content:  # PyYAML loses a few odd characters, such as U+0085, unless it escapes all
        text = yaml.safe_dump(content, sort_keys=False, width=120)
    make_folder(path.parent)
    write_atomically(path, text)
    return dict(content)


def read(path: Path) -> dict[str, Any]:
    """A frozen file's content.

    Raises:
        UserError: absent, not YAML, not a frozen file, or of another format; the message says which and what to do.
    """
    if not path.exists():
        raise UserError(f"frozen: {str(path)!r} does not exist; `python -m gpuqa.sweep` writes it, `frozen=FILE` names another")
    if path.is_dir():
        raise UserError(f"frozen: {str(path)!r} is a folder, allowed is a file, such as {str(path / 'frozen.yaml')!r}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise UserError(f"frozen: {path} cannot be read: it is nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"frozen: {path} cannot be read: {' '.join(str(error).split())}") from error
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise format_of_file(path, content)
    missing = [key for key in FIELDS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"frozen: {path} is not a frozen winner, it lacks {', '.join(missing)}")
    shapeless = [key for key in MAPPINGS if not isinstance(content[key], dict)]
    if shapeless:
        raise UserError(f"frozen: {path} is not a frozen winner, {', '.join(shapeless)} should be a mapping (dict)")
    return dict(content)


def pipeline_config(content: dict[str, Any], path: Path) -> PipelineConfig:
    """The pipeline that was measured."""
    return from_plain(content["pipeline"], PipelineConfig, str(path))


def mismatches(content: dict[str, Any], pipeline: PipelineConfig, model_folder: Path, **also: str) -> list[str]:
    """What differs between the file and what is here: the file itself, weights, tokenizer, prompt text.

    Args:
        also: more of the file's digests by their names (`dataset`, `prompt_tokens`), as they are here.
    """
    unsigned = {key: value for key, value in content.items() if key != "digest"}
    here = {**fingerprint.sha256_of_model(model_folder), "prompt": fingerprint.sha256_of_prompt(pipeline.prompt), **also}
    pairs = [("digest of the file itself", content["digest"], fingerprint.sha256_of(unsigned))]
    pairs += [(f"sha256 of the {key}", content["digests"].get(key), digest) for key, digest in here.items()]
    return [f"{what} differs: frozen {frozen!s:.16}, here {digest:.16}" for what, frozen, digest in pairs if frozen != digest]


def refuse(path: str, differences: Sequence[str], way_out: str) -> None:
    """Raise a UserError that lists the `mismatches` and says what to do, if there are any."""
    if differences:
        raise UserError(f"{path}: what is here is not what was measured: {'; '.join(differences)}. {way_out}")


def format_of_file(path: Path, content: Mapping[str, Any]) -> UserError:
    """The refusal of a frozen file of another format."""
    versions, axes, pipeline = (mapping(content.get(key)) for key in ("versions", "axes", "pipeline"))
    names = {group: str(mapping(pipeline.get(group)).get("name")) for group in GROUPS if group in pipeline}
    cell = {"experiment": "none", **names, **axes}
    return other_format(path, content["format"], str(versions.get("gpuqa", "")), [cell], content)


def other_format(
    where: Path, number: object, version: str, cells: Sequence[Mapping[str, str]], content: Mapping[str, Any]
) -> UserError:
    """The refusal of a frozen file or study folder that another version of gpuqa wrote.

    Args:
        number: of the format.
        version: of gpuqa that wrote it, "" where it does not say.
        cells: what was measured, each as the overrides that name it.
        content: of the file, or of one of its trials: its keys that have another name now are named.
    """
    folder = where.parent if where.suffix else where
    message = f"{where}: format {number!r}, written by gpuqa {version or 'of another version'}; this version reads {FORMAT}"
    if isinstance(number, int) and number > FORMAT:
        return UserError(f"{message}: use the newer gpuqa that wrote it")
    words = [*sweep_words(cells), f"study.name={folder.name}_{FORMAT}"]
    message += f": measure again with `{shlex.join(['python', '-m', 'gpuqa.sweep', *words])}` (the old files stay as they are)"
    renamed = [f"{old} is {new} now" for old, new in renamed_keys(content).items()]
    return UserError("; ".join([message, *renamed]))


def sweep_words(cells: Iterable[Mapping[str, str]]) -> list[str]:
    """The overrides of a sweep over the values that cells have, under the names that keys have now."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for key, value in cell.items():
            values.setdefault(RENAMED.get(key, key), {})[str(value)] = None
    return [f"{key}={','.join(choices)}" for key, choices in values.items()]


def renamed_keys(content: Mapping[str, Any]) -> dict[str, str]:
    """The keys in a frozen file or trial that have another name now: old name -> new name."""
    groups = {**content, **mapping(content.get("pipeline")), **mapping(content.get("setting"))}
    return {old: new for old, new in RENAMED.items() if (parts := old.split("."))[1] in mapping(groups.get(parts[0]))}


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: an old file may hold anything."""
    return value if isinstance(value, dict) else {}
