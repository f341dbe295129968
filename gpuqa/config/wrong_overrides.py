"""What Hydra refuses about a command line, in one line that names the key and says what is allowed and what to write."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import MissingConfigException, OverrideParseException, SearchPathException
from omegaconf import MISSING, DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from gpuqa.config import did_you_mean, one_line
from gpuqa.config.command_line import override
from gpuqa.config.commands import COMMANDS
from gpuqa.config.engine_arguments import argument_names
from gpuqa.config.paths import conf_folder
from gpuqa.config.wrong_values import ARGUMENTS, allowed_at, deepest, explained_value, hints_of, unknown_key

ASIDE = re.compile(
    r"\n(To append to|See https://hydra\.cc|Config search path:|\s+provider=|\s*\^).*"
)  # advice that misleads here
UNKNOWN = re.compile(r"Could not (?:override|delete(?: from config\.)?) '([^'=]+)(?:=[^']*)?'")
AXIS = re.compile(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires)", re.DOTALL)
UNSET = re.compile(r"You must specify '([^']+)'")
CHOSEN = re.compile(r"Multiple values for (\S+)\.")
PRESENT = re.compile(r"An item is already at '(.*?)'")
IN_FILE = re.compile(r"In '([^']+)'")


def explained(error: Exception, command: str, words: Sequence[str], options_folder: str | None = None) -> str:
    """One line about what Hydra raised while it composed the config of a command.

    Args:
        words: the overrides of the command line.
        options_folder: the value of `--config-dir`.
    """
    text, cause, schema = str(error), error.__cause__ or error.__context__, COMMANDS[command]
    if isinstance(error, OverrideParseException):
        return unreadable(error.override, schema)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and (file := IN_FILE.match(text)):
        group, _, option = error.missing_cfg_file.partition("/")
        return unknown_option(group, option, error.options or [], command) + place_of(file[1], command)
    if match := UNSET.match(text):
        return unknown_option(match[1], "???", options_of(match[1], options_folder), command)
    if match := UNKNOWN.search(text):
        return key_of_no_config(match[1], command, words, cause)
    if match := AXIS.search(text):
        key, _, value = match[1].partition("=")
        one = "compose_cell makes one cell, gpuqa.compose makes those of several values"  # the command itself takes axes
        reason = one if command == "sweep" else f"gpuqa.{command} has no axes"
        return f"{key}: {reason}; if a text is meant, quote it: {shlex.quote(override(key, value))}"
    if match := CHOSEN.search(text) or PRESENT.search(text):
        return f"{match[1]}: it is set already; write {match[1]}=VALUE, without a +"
    if isinstance(cause, OmegaConfBaseException):
        file, unknown = IN_FILE.match(text), isinstance(cause, ConfigKeyError | ConfigAttributeError)
        owned = unknown and key_of_another(cause.full_key or "", command)
        return (owned or explained_value(cause, schema)) + (place_of(file[1], command) if file else "")
    if isinstance(error, OmegaConfBaseException):
        return explained_value(error, schema)
    if isinstance(error, UnicodeDecodeError):
        return f"a YAML file is not UTF-8, convert it: {', '.join(not_in_utf8(options_folder)) or error}"
    if (isinstance(error, ValueError) or isinstance(cause, ValueError)) and (
        message := option_of_no_group(command, words, options_folder)
    ):
        return message
    return ("--config-dir: " if isinstance(error, SearchPathException) else "") + one_line(ASIDE.sub("", text))


def place_of(file: str, command: str) -> str:
    """Where something is wrong, if it is not in the command line."""
    return "" if file == command else f" (in {file}.yaml)"


def unreadable(word: str, schema: type) -> str:
    """About a word that Hydra's grammar refuses, for a command with this schema."""
    key, equals, value = word.partition("=")
    if not equals:
        needed = [field.name for field in fields(schema) if field.type == "str" and field.default == MISSING]
        return f"{word!r}: an override is written KEY=VALUE" + (
            f", here {' '.join(f'{name}=VALUE' for name in needed)}" if needed else ""
        )
    if value.endswith(","):
        return f"{key}: {value!r} ends with a comma; the values of an axis are written without blanks: {key}=A,B"
    if "choice(" in value and "null" in value:
        return f"{key}: choice() does not take null; write the values with commas: {key}={','.join(within(value))}"
    if value[:1] in "[{":
        return (
            f"{key}: Hydra's grammar cannot read {value!r}; put each text in it into double quotes, and all into single quotes"
        )
    if re.fullmatch(r"[\w.@/+~]+", key):
        quoted = shlex.quote(override(key, value))
        axis = f"""; an axis of texts: '{key}="...","..."'""" if "," in value else ""
        return f"{key}: Hydra's grammar cannot read {value!r} without quotes; write a text as {quoted}{axis}"
    return f"{word!r}: Hydra's grammar cannot read the key {key!r}"


def within(value: str) -> list[str]:
    """What stands between the parentheses of `choice(a, b)`."""
    return [item.strip() for item in value.partition("(")[2].rpartition(")")[0].split(",")]


def unknown_option(group: str, option: str, options: Sequence[str], command: str) -> str:
    """About an option that a group does not have."""
    if group not in groups_of(command):
        return unknown_key(group, COMMANDS[command], beside_fields(command))
    path = f"; a path is given as {group}.path={option}" if group in ("model", "dataset") and "/" in option else ""
    return f"{group}: got {option!r}, allowed is {', '.join(options)}{did_you_mean(option, options)}{path}"


def key_of_no_config(key: str, command: str, words: Sequence[str], cause: BaseException | None) -> str:
    """About a key that a command's config does not have: another command's, an argument of the engine, or nobody's."""
    if message := key_of_another(key, command):
        return message
    place, _, name = key.rpartition(".")
    node = cause.parent_node if isinstance(cause, OmegaConfBaseException) else None
    if isinstance(node, DictConfig) and place in (*ARGUMENTS, "engine.env", "executor.parameters", "model.download.sha256"):
        if place not in ARGUMENTS or name in argument_names():
            [word] = [word for word in words if word.startswith(f"{key}=")] or [f"{key}=VALUE"]
            return f"{key}: the file of this option does not have it; a + adds it: {shlex.quote(f'+{word}')}"
        known = ", ".join(map(str, node)) or "none"
        message = unknown_key(key, COMMANDS[command])
        return f"{message}; the file of this option has {known}, and a + adds others that the engine knows"
    if deepest(key, COMMANDS[command])[0] == key:
        return f"{key}: this value does not fit; allowed is {allowed_at(key, COMMANDS[command])}"
    return unknown_key(key, COMMANDS[command], beside_fields(command))


def key_of_another(key: str, command: str) -> str:
    """About a key that only other commands have; "" of others."""
    others = [name for name in COMMANDS if key.partition(".")[0] in keys_of(name)]
    if not others or command in others:
        return ""
    owners = ", ".join(f"gpuqa.{name}" for name in others)
    return f"{key}: gpuqa.{command} has no such key, it belongs to {owners}; allowed is {', '.join(keys_of(command))}"


def option_of_no_group(command: str, words: Sequence[str], options_folder: str | None) -> str | None:
    """About a group that is set to a number, to null or to a mapping, which Hydra refuses without naming it."""
    for parsed in OverridesParser.create().parse_overrides(list(words)):
        is_axis = parsed.is_sweep_override() and parsed.is_discrete_sweep()
        for value in parsed.sweep_iterator() if is_axis else [parsed.value()]:
            key, is_name = parsed.key_or_group, isinstance(value, str | list | QuotedString)
            if key in groups_of(command) and not is_name:
                return unknown_option(key, "null" if value is None else str(value), options_of(key, options_folder), command)
    return None


def groups_of(command: str) -> list[str]:
    """The groups that a command's root file chooses options of."""
    defaults = yaml.safe_load((conf_folder() / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
    return [group for item in defaults if isinstance(item, dict) for group in item if not group.startswith("override ")]


def keys_of(command: str) -> list[str]:
    """What may be set at the top of a command's config."""
    return [*hints_of(COMMANDS[command]), *beside_fields(command)]


def not_in_utf8(options_folder: str | None) -> list[str]:
    """The YAML files of a user's folder that are written in another encoding, as an editor may have saved them."""
    strange = []
    for file in Path(options_folder or conf_folder()).rglob("*.yaml"):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            strange.append(str(file))
    return sorted(strange)


def beside_fields(command: str) -> list[str]:
    """The groups of a command that are no fields of its config: `experiment`, which sets others."""
    return [group for group in groups_of(command) if group not in hints_of(COMMANDS[command])]


def options_of(group: str, options_folder: str | None) -> list[str]:
    """The options of a group: shipped ones and those of a user's folder."""
    folders = [conf_folder(), *([Path(options_folder)] if options_folder else [])]
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
