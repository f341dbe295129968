"""The frozen winner: every value that decides an answer, the digests of what it was measured with, and its numbers.

`serve` builds its pipeline from this file alone. The file carries its own digest, so that an edit shows.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import UserError, plain
from gpuqa.config.commands import from_plain
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.measure import fingerprint
from gpuqa.records import Trial

FORMAT = 1
FIELDS = ("format", "pipeline", "digests", "versions", "device", "driver", "measurement", "axes", "reason", "digest")


def freeze(trial: Trial, rule: SelectionConfig, reason: str, path: Path) -> dict[str, Any]:
    """Write the winner down and return what was written."""
    pipeline = from_plain(trial.pipeline, PipelineConfig, "trial")
    assert trial.measurement is not None
    content = plain(
        {
            "format": FORMAT,
            "study": path.parent.name,
            "axes": trial.axes,
            "setting": trial.setting,
            "reason": reason,
            "note": pipeline.model.note,
            "pipeline": trial.pipeline,
            "digests": {**trial.fingerprint["digests"], "prompt": fingerprint.sha256_of_prompt(pipeline.prompt)},
            "versions": trial.fingerprint["versions"],
            "device": trial.fingerprint["device"],
            "driver": trial.fingerprint["driver"],
            "git_commit": fingerprint.git_commit(),
            "frozen_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "selection": asdict(rule),
            "measurement": asdict(trial.measurement),
            "trial": trial.key,
        }
    )
    content["digest"] = fingerprint.sha256_of(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=120)
    if yaml.safe_load(text) != content:  # PyYAML loses a few odd characters, such as U+0085, unless it escapes all
        text = yaml.safe_dump(content, sort_keys=False, width=120)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return dict(content)


def read(path: Path) -> dict[str, Any]:
    """A frozen file's content.

    Raises:
        UserError: absent, not YAML, or not a frozen file; the message says which and what to do.
    """
    if not path.exists():
        raise UserError(f"frozen: {str(path)!r} does not exist; `python -m gpuqa.sweep` writes it, `frozen=FILE` names another")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"frozen: {path} cannot be read: {error}") from error
    missing = [key for key in FIELDS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"frozen: {path} is not a frozen winner, it lacks {', '.join(missing)}")
    shapeless = [key for key in ("pipeline", "digests", "versions") if not isinstance(content[key], dict)]
    if shapeless:
        raise UserError(f"frozen: {path} is not a frozen winner, {', '.join(shapeless)} should be a mapping (dict)")
    if content["format"] != FORMAT:
        raise UserError(f"frozen: {path} has format {content['format']!r}, this version reads {FORMAT}; freeze it again")
    return dict(content)


def pipeline_config(content: dict[str, Any], path: Path) -> PipelineConfig:
    """The pipeline that was measured."""
    return from_plain(content["pipeline"], PipelineConfig, str(path))


def mismatches(content: dict[str, Any], pipeline: PipelineConfig, model_folder: Path, **also: str) -> list[str]:
    """What differs between the file and what is here: the file itself, weights, tokenizer, prompt text.

    `also`: more of the file's digests by their names, as they are here.
    """
    unsigned = {key: value for key, value in content.items() if key != "digest"}
    here = {**fingerprint.sha256_of_model(model_folder), "prompt": fingerprint.sha256_of_prompt(pipeline.prompt), **also}
    pairs = [("digest of the file itself", content["digest"], fingerprint.sha256_of(unsigned))]
    pairs += [(f"sha256 of the {key}", content["digests"].get(key), digest) for key, digest in here.items()]
    return [f"{what} differs: frozen {frozen!s:.16}, here {found:.16}" for what, frozen, found in pairs if frozen != found]


def refuse(path: str, differences: Sequence[str], way_out: str) -> None:
    """Raise a UserError that lists the `mismatches` and says what to do, if there are any."""
    if differences:
        raise UserError(f"{path}: what is here is not what was measured: {'; '.join(differences)}. {way_out}")
