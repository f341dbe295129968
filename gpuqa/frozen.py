"""The frozen winner: every value that decides an answer, the digests of what it was measured with, and its numbers.

`serve` builds its pipeline from this file alone. The file carries its own digest, so that an edit shows. A winner is never
lost: another one in its place leaves it beside as `frozen-DIGEST.yaml`, which can be served like any other.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import RENAMED, UserError, plain
from gpuqa.config.command_line import command_line, override, study_overrides
from gpuqa.config.commands import StudyConfig, from_plain
from gpuqa.config.foreign import refuse_code, text_of, yaml_of
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.machine.files import make_folder, write_atomically, writing
from gpuqa.measure import fingerprint
from gpuqa.measure.metrics import intervals_of
from gpuqa.measure.speed_prediction import own_noise
from gpuqa.measure.speed_tests import SpeedNoise
from gpuqa.records import Answer, Trial

FORMAT = 2  # of frozen files, and of the lines and study.yaml of a journal: they change together
MAPPINGS = ("axes", "pipeline", "digests", "versions", "measurement")
FIELDS = ("format", *MAPPINGS, "device", "driver", "overrides", "reason", "digest")
GROUPS = ("model", "prompt", "quantization", "engine", "sampling")
OF_THE_WRITING = (
    "frozen_at",
    "git_commit",
    "digest",
)  # say when a file was written; the same decision again changes nothing else
UNREADABLE = (TypeError, ValueError, RecursionError, yaml.YAMLError)  # what an edited file makes its readers raise
ANEW = "take it from the study again with gpuqa.freeze"


@dataclass(frozen=True, slots=True)
class Winner:
    """What is frozen, and how much its speed varies."""

    trial: Trial
    answers: Sequence[Answer]  # of the trial; without them its scores have no interval
    noise: SpeedNoise | None = None  # by all that a study has measured; else the trial's own repeats are all there is


@dataclass(frozen=True, slots=True)
class Frozen:
    """What became of the file when a winner was frozen."""

    content: dict[str, Any]  # of the file
    unchanged: bool = False  # it held the same decision already, so it was not written again
    kept: Path | None = None  # where the winner lies that had its place before


def freeze(winner: Winner, rule: SelectionConfig, reason: str, path: Path) -> Frozen:
    """Write the winner down. A file that holds the same decision stays as it is; another winner's is kept beside it.

    Raises:
        FileNotWritten: the disk is full, for example; an older file is whole then.
    """
    content = content_of(winner, rule, reason, path.parent.name)
    make_folder(path.parent)
    kept = None
    if path.is_file():
        with writing(path):
            data = path.read_bytes()
        old = as_it_was_written(data)
        if old is not None and decision_of(old) == decision_of(content):
            return Frozen(old, unchanged=True)
        digest = hashlib.sha256(data).hexdigest() if old is None else str(old["digest"])
        kept = path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}")
        write_atomically(kept, data)
    write_atomically(path, to_yaml(content))
    return Frozen(content, kept=kept)


def content_of(winner: Winner, rule: SelectionConfig, reason: str, study: str) -> dict[str, Any]:
    """What a frozen file holds, its digest last."""
    trial = winner.trial
    pipeline = from_plain(trial.pipeline, PipelineConfig, "trial")
    known = trial.fingerprint
    content: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "study": study,
            "axes": trial.axes,
            "setting": trial.setting,
            "reason": reason,
            "note": pipeline.model.note,
            "pipeline": trial.pipeline,
            "digests": {**known["digests"], "prompt": fingerprint.sha256_of_prompt(pipeline.prompt)},
            "stop_token_ids": known.get("stop_token_ids"),
            "revision": known.get("revision"),
            "versions": known["versions"],
            "device": known["device"],
            "driver": known["driver"],
            "overrides": [asdict(override) for override in trial.overrides],
            "code": known["code"],
            "git_commit": fingerprint.git_commit(),
            "frozen_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "selection": asdict(rule),
            "measurement": numbers_of(winner),
            "trial": trial.key,
        }
    )
    return {**content, "digest": digest_of(content)}


def numbers_of(winner: Winner) -> dict[str, Any]:
    """The winner's numbers with their intervals; `chars_per_s_noise` tells the interval for another number of repeats.

    The names of machines stay in the journal: a frozen file goes to others.
    """
    measurement = winner.trial.measurement
    assert measurement is not None
    noise = winner.noise or own_noise(measurement)
    intervals = intervals_of(measurement, winner.answers, noise)
    promised = {f"{name}_interval": asdict(interval) if interval else None for name, interval in intervals.items()}
    numbers = {name: value for name, value in asdict(measurement).items() if name != "devices"}
    return {**numbers, **promised, "chars_per_s_noise": asdict(noise) if noise else None}


def to_yaml(content: dict[str, Any]) -> str:
    """A frozen file's text."""
    text = dumped(content, allow_unicode=True)
    if yaml.safe_load(text) != content:  # PyYAML loses a few odd characters, such as U+0085, unless it escapes all
        text = dumped(content, allow_unicode=False)
    return text


class WithoutAliases(yaml.SafeDumper):
    """Writes what occurs twice twice."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def dumped(content: dict[str, Any], allow_unicode: bool) -> str:
    """YAML in the order of the content."""
    return yaml.dump(content, Dumper=WithoutAliases, sort_keys=False, width=120, allow_unicode=allow_unicode)


def as_it_was_written(data: bytes) -> dict[str, Any] | None:
    """What a frozen file's bytes hold; None if they were edited or are no frozen file."""
    try:
        content = yaml_of(data)
        return content if mapping(content) and content.get("digest") == digest_of(content) else None
    except UNREADABLE:
        return None


def digest_of(content: Mapping[str, Any]) -> str:
    """The digest that a frozen file's content should have.

    Raises:
        TypeError, ValueError, RecursionError: an edit brought in what no frozen file holds: a date, half a character, itself.
    """
    return fingerprint.sha256_of({key: value for key, value in content.items() if key != "digest"})


def decision_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen file's content without what says when it was written."""
    return {key: value for key, value in content.items() if key not in OF_THE_WRITING}


def described(path: Path) -> str:
    """The winner that a file holds, in words; whatever the file holds."""
    try:
        content = as_it_was_written(path.read_bytes())
    except OSError:
        content = None
    if content is None:
        return "which was edited or cannot be read"
    axes = " ".join(f"{key}={value}" for key, value in mapping(content.get("axes")).items()) or "the only cell"
    return f"{axes} (digest {content['digest']:.16})"


def read(path: Path) -> dict[str, Any]:
    """A frozen file's content.

    Raises:
        UserError: absent, not YAML, not a frozen file, or of another format; the message says which and what to do.
    """
    if not os.path.exists(path):  # pathlib's raises for a name that is too long
        raise UserError(f"frozen: {str(path)!r} does not exist; a sweep writes one, `frozen=FILE` names another")
    if path.is_dir():
        raise UserError(f"frozen: {str(path)!r} is a folder, allowed is a file, such as {str(path / 'frozen.yaml')!r}")
    try:
        content = yaml_of(text_of(path))
        digest_of(mapping(content))
    except RecursionError as error:
        raise UserError(f"frozen: {path} cannot be read: it is nested too deeply, or in itself; {ANEW}") from error
    except OSError as error:
        raise UserError(f"frozen: {path} cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise UserError(f"frozen: {path} cannot be read: {' '.join(str(error).split())}; {ANEW}") from error
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise format_of_file(path, content)
    missing = [key for key in FIELDS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"frozen: {path} is not a frozen winner, it lacks {', '.join(missing)}")
    shapeless = [key for key in MAPPINGS if not isinstance(content[key], dict)]
    if shapeless:
        raise UserError(f"frozen: {path} is not a frozen winner, {', '.join(shapeless)} should be a mapping (dict)")
    return dict(content)


def pipeline_config(content: dict[str, Any], path: Path, trusted: bool = False) -> PipelineConfig:
    """The pipeline that was measured.

    Raises:
        UserError: it does not fit the schema, or would run code that the file chose while the operator has not `trusted` it.
    """
    refuse_code(content["pipeline"], trusted, f"frozen: {path}")
    return from_plain(content["pipeline"], PipelineConfig, str(path))


def mismatches(content: dict[str, Any], pipeline: PipelineConfig, model_folder: Path) -> list[str]:
    """What differs between the file and what is here: the file itself, weights, tokenizer, prompt text."""
    here = {**fingerprint.sha256_of_model(model_folder), "prompt": fingerprint.sha256_of_prompt(pipeline.prompt)}
    own = differing({"digest of the file itself": (content["digest"], digest_of(content))})
    return [*own, *digest_mismatches(content, here)]


def digest_mismatches(content: Mapping[str, Any], here: Mapping[str, str]) -> list[str]:
    """Which of the file's digests (`dataset`, `prompt_tokens`, ...) are others than `here`."""
    return differing({f"sha256 of the {key}": (content["digests"].get(key), digest) for key, digest in here.items()})


def stop_mismatches(content: Mapping[str, Any], here: list[int]) -> list[str]:
    """What differs where other tokens end an answer `here`. A file of gpuqa 0.2 does not say which did."""
    known = content.get("stop_token_ids")
    return [] if known in (None, here) else [f"the ids of the tokens that end an answer differ: frozen {known}, here {here}"]


def differing(digests: Mapping[str, tuple[object, str]]) -> list[str]:
    """A sentence for each pair, the frozen digest and the one here, that differs; by what they are the digests of."""
    pairs = digests.items()
    return [f"{what} differs: frozen {frozen!s:.16}, here {here:.16}" for what, (frozen, here) in pairs if frozen != here]


def refuse(path: str, differences: Sequence[str], way_out: str) -> None:
    """Raise a UserError that lists the `mismatches` and says what to do, if there are any."""
    if differences:
        raise UserError(f"{path}: what is here is not what was measured: {'; '.join(differences)}. {way_out}")


def format_of_file(path: Path, content: Mapping[str, Any]) -> UserError:
    """The refusal of a frozen file of another format."""
    version = str(mapping(content.get("versions")).get("gpuqa", ""))
    return other_format(path, content["format"], version, [mapping(content.get("axes"))], content)


def other_format(
    where: Path, number: object, version: str, cells: Sequence[Mapping[str, str]], content: Mapping[str, Any]
) -> UserError:
    """The refusal of a frozen file or study folder that another version of gpuqa wrote.

    Args:
        number: of the format.
        version: of gpuqa that wrote it, "" where it does not say.
        cells: the axes of what was measured.
        content: of the file, or of one of its trials, and the study's number of finalists.
    """
    folder = (where.parent if where.suffix else where).absolute()
    message = f"{where}: format {number!r}, written by gpuqa {version or 'of another version'}; this version reads {FORMAT}"
    if isinstance(number, int) and number > FORMAT:
        return UserError(f"{message}: use the newer gpuqa that wrote it")
    root = str(where.parent.parent if where.suffix else where.parent)
    study = StudyConfig(f"{folder.name}_{FORMAT}", root if Path(root).absolute() == folder.parent else str(folder.parent))
    again = command_line("sweep", "experiment=none", *sweep_words(cells, content), *study_overrides(study))
    message += f": measure again with `{again}` (the old files stay as they are)"
    if "pipeline" in content:
        values = where if where.suffix else where / "trials" / "trials.jsonl"
        message += f"; {values} has all its other values, under pipeline and setting"
    renamed = [f"{old} is {new} now" for old, new in renamed_keys(content).items()]
    return UserError("; ".join([message, *renamed]))


def sweep_words(cells: Iterable[Mapping[str, str]], content: Mapping[str, Any]) -> list[str]:
    """The overrides of a sweep over the values that cells have, under the names that keys have now, and its fixed options."""
    axes: dict[str, dict[str, None]] = {}
    for cell in cells:
        for key, value in cell.items():
            axes.setdefault(RENAMED.get(key, key), {})[str(value)] = None
    groups = {**mapping(content.get("pipeline")), **mapping(content.get("setting"))}
    fixed = {group: mapping(groups.get(group)).get("name") for group in (*GROUPS, "dataset", "workload")}
    fixed["dataset.limit"] = mapping(groups.get("dataset")).get("limit")
    fixed["workload.repeats"] = mapping(groups.get("workload")).get("repeats")
    fixed["study.finalists"] = content.get("finalists")
    options = [override(key, value) for key, value in fixed.items() if value is not None and key not in axes]
    return [*options, *(f"{key}={','.join(choices)}" for key, choices in axes.items())]


def renamed_keys(content: Mapping[str, Any]) -> dict[str, str]:
    """The keys in a frozen file or trial that have another name now: old name -> new name."""
    groups = {**content, **mapping(content.get("pipeline")), **mapping(content.get("setting"))}
    return {old: new for old, new in RENAMED.items() if (parts := old.split("."))[1] in mapping(groups.get(parts[0]))}


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: an old file may hold anything."""
    return value if isinstance(value, dict) else {}
