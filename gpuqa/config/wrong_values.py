"""What OmegaConf refuses about a config, in one line that names the key and says what is allowed."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from gpuqa.config import GONE, RENAMED, one_line
from gpuqa.config.engine_arguments import argument_names

DETAILS = re.compile(r"\n\s+(full_key|reference_type|object_type)[:=].*")
PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "a text", list: "a list", dict: "a mapping"}
ARGUMENTS = ("engine.args", "quantization.args")  # mappings whose keys are the back end's own


def explained_value(error: OmegaConfBaseException, schema: type) -> str:
    """One line about a value, or a key, that does not fit the config of this schema."""
    key = error.full_key or ""
    if isinstance(error, MissingMandatoryValue):
        return no_value([key])
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        at_top = schema if "." in key or not is_dataclass(error.object_type) else error.object_type  # of an item in a list
        return unknown_key(key, at_top)
    if isinstance(error, ValidationError) and (allowed := allowed_at(key, schema)):
        return f"{key}: got {plain_value(error.value)!r}, allowed is {allowed}"
    message = one_line(DETAILS.sub("", str(error)))
    return f"{key}: {message}" if key else message


def no_value(keys: Sequence[str]) -> str:
    """One line about keys that must be given."""
    return f"{', '.join(keys)}: no value is given; {' '.join(f'{key}=VALUE' for key in keys)} is needed"


def plain_value(value: Any) -> Any:
    """A value as the user wrote it, out of OmegaConf's node."""
    return value._value() if hasattr(value, "_value") else value


def unknown_key(key: str, schema: type, also: Sequence[str] = ()) -> str:
    """One line about a key that a config does not have: the nearest one that it has, and all at that place.

    Args:
        also: what may be set at the top, beside the fields of the schema.
    """
    for old in (*RENAMED, *GONE):
        if f"{key}.".startswith(f"{old}."):
            return f"{old}: is called {RENAMED[old]} now" if old in RENAMED else f"{old}: is gone, since {GONE[old]}"
    place, kind = deepest(key, schema)
    near = nearest(key, [*all_keys(schema), *also])
    known = ", ".join([*hints_of(bare(kind)), *(() if place else also)])
    message = f"{key}: there is no such key" + (f"; did you mean {near!r}?" if near else "")
    return message + (f"; allowed is {known}" if known else "")


def deepest(key: str, schema: type) -> tuple[str, Any]:
    """The longest beginning of a key that exists, and the type of what is there."""
    place, kind = [], schema
    for part in key.split("."):
        if part not in hints_of(bare(kind)):
            break
        place.append(part)
        kind = hints_of(bare(kind))[part]
    return ".".join(place), kind


def nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key that was probably meant: at the same place, of the same name elsewhere, or written much alike."""
    place, _, name = key.rpartition(".")
    by_name: dict[str, list[str]] = defaultdict(list)
    for other in known:
        by_name[other.rpartition(".")[2]].append(other)
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == place}
    if close := difflib.get_close_matches(name, beside, n=1):
        return beside[close[0]]
    same = [other for other in by_name[name] if not other.startswith("quantization.args.")]  # rather the engine's argument
    if len(same) == 1:
        return same[0]
    others = [other for other in known if not key.startswith(f"{other}.")]
    return next(iter(difflib.get_close_matches(key, others, n=1, cutoff=0.75)), None)


def all_keys(schema: Any, place: str = "") -> Iterator[str]:
    """Every key that a config of this schema may hold, with those of its groups, and vLLM's engine arguments."""
    for name, kind in hints_of(schema).items():
        key = f"{place}.{name}" if place else name
        yield key
        yield from all_keys(bare(kind), key)
        if key in ARGUMENTS:
            yield from (f"{key}.{argument}" for argument in argument_names())


def allowed_at(key: str, schema: type) -> str:
    """What may stand at a key, "" where the schema does not say it."""
    place, kind = deepest(key, schema)
    if place != key:
        kind = get_args(bare(kind))[-1] if get_origin(bare(kind)) is dict else Any
    inner = bare(kind)
    if is_dataclass(inner):
        text = f"a mapping with {', '.join(hints_of(inner))}"
    elif isinstance(inner, type) and issubclass(inner, Enum):
        text = f"one of {', '.join(member.name for member in inner)}"
    else:
        text = PLAIN.get(get_origin(inner) or inner, "")
    return text + (", or null" if text and inner is not kind else "")


def hints_of(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass with their types, none of anything else."""
    return {field.name: get_type_hints(kind)[field.name] for field in fields(kind)} if is_dataclass(kind) else {}


def bare(kind: Any) -> Any:
    """A type without its "or None"."""
    return get_args(kind)[0] if type(None) in get_args(kind) else kind
