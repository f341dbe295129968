"""`python -m gpuqa.report`: studies beside each other, and their tables as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from conftest import run_command
from omegaconf import OmegaConf
from written_study import RULE, measured, write_study

from gpuqa.config import UserError
from gpuqa.config.commands import ReportConfig
from gpuqa.records import Answer
from gpuqa.report import report
from gpuqa.study.tables import TABLES


def told(root: Path, **options: Any) -> int:
    return report(OmegaConf.merge(OmegaConf.structured(ReportConfig), {"root": str(root), **options}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two studies of two cells; in the second one is half as fast, answered worse and ran on another device."""
    write_study(tmp_path / "old", rule=RULE)
    slower = measured("e" * 64, "bare", 1000.0)
    slower = replace(slower, fingerprint={**slower.fingerprint, "device": "another GPU"})
    failed = replace(measured("4" * 64, "structured", 1.0), measurement=None, error="died")
    journal = write_study(tmp_path / "new", slower, failed, rule=RULE)
    worse = [Answer(f"q{number}", f"问题 {number}", "参考", "答", 0.2, 0.25, "stop", 9, 0.1) for number in range(4)]
    journal.write(slower, worse)
    return tmp_path


def test_studies_are_compared_cell_by_cell_with_what_differs_and_what_only_one_has(root: Path, capsys: Any) -> None:
    assert told(root, study="old,new") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("old: INCONCLUSIVE: prompt=bare, 2,000 chars/s; a GPU; gpuqa 0.2.0")
    assert "new against old" in lines
    assert "  device: 'a GPU' | 'another GPU'" in lines
    numbers = [line.split() for line in lines if "_" in line]
    assert ["prompt=bare", "chars_per_s", "2,000", "1,000", "-50.0%"] in [row[:5] for row in numbers]
    assert ["rouge_l_f1", "0.5000", "0.2500", "-50.0%"] in [row[:4] for row in numbers]
    assert "only in old, or only measured there: prompt=structured" in lines
    assert not [line for line in lines if line.startswith("only in new")], "its failed cell was measured in neither"


@pytest.mark.parametrize("columns", ["80", "300"])
def test_the_table_of_two_studies_is_80_columns_wide_at_most_and_cuts_nothing(
    root: Path, columns: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    axes = {"prompt": "structured_short", "quantization": "none", "engine.args.max_num_seqs": "16"}
    for name, speed in (("one", 123456.0), ("two", 234567.0)):
        write_study(root / name, replace(measured("e" * 64, "bare", speed), axes=axes), rule=RULE)
    assert told(root, study="one,two") == 0
    lines = capsys.readouterr().out.splitlines()
    [head] = [place for place, line in enumerate(lines) if line.startswith("cell ")]
    table = lines[head:]
    assert max(map(len, table)) <= 80
    assert not [line for line in table if "…" in line]
    name = "".join(line[: lines[head].index("number")].strip() for line in table[1:])
    assert name == "prompt=structured_shortquantization=nonemax_num_seqs=16"
    assert table[1].split()[1:4] == ["chars_per_s", "123,456", "234,567"]


def test_studies_without_a_common_cell_say_so(root: Path, capsys: Any) -> None:
    write_study(root / "other", measured("d" * 64, "expert", 5.0), rule=RULE)
    assert told(root, study="old,other") == 0
    assert "no cell with the same axes was measured in both" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_have_the_same_columns_whatever_failed_and_no_lists(root: Path, kind: str) -> None:
    assert told(root, study="old,new", tables=kind) == 0
    read = pandas.read_csv if kind == "csv" else pandas.read_parquet
    for name, columns in TABLES.items():
        old, new = (read(root / study / "tables" / f"{name}.{kind}") for study in ("old", "new"))
        assert list(old.columns) == list(new.columns) == ["trial", "name", "prompt", *columns]
        assert not [value for value in old.to_numpy().ravel() if isinstance(value, list)]
    trials = read(root / "new" / "tables" / f"trials.{kind}")
    assert list(trials["trial"]) == ["e" * 16, "4" * 16]
    assert list(trials["state"]) == ["measured", "failed"]
    assert len(read(root / "old" / "tables" / f"answers.{kind}")) == 8


@pytest.mark.parametrize("options", [{"study": "old,new"}, {"study": "old", "tables": "csv"}], ids=["compared", "tables"])
def test_a_file_of_a_study_that_is_damaged_is_named_beside_the_output(root: Path, options: dict[str, str], capsys: Any) -> None:
    damaged = next((root / "old" / "trials").glob("*.answers.jsonl"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert told(root, **options) == 0
    said = capsys.readouterr()
    assert damaged.name in said.err
    assert damaged.name not in said.out


def test_another_rule_is_among_what_differs(root: Path, capsys: Any) -> None:
    write_study(root / "strict", rule=replace(RULE, min_rouge_l_f1_judge=0.9))
    assert told(root, study="old,strict") == 0
    assert "  selection.min_rouge_l_f1_judge: " in capsys.readouterr().out


def test_a_machine_without_pyarrow_says_in_one_line_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # it is installed where tests run
    with pytest.raises(
        UserError, match=r"^tables: parquet needs pyarrow, .* pip install 'gpuqa\[parquet\]', or take tables=csv$"
    ):
        told(root, study="old", tables="parquet")
    assert not (root / "old" / "tables").exists()


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("old", "study: got 'old', allowed are two studies or more (a,b), or one with tables=csv or parquet"),
        ("old,", "study: got 'old,', allowed is the names of studies, such as a or a,b"),
        ("old,old", "study: got 'old,old', allowed is each study once"),
        ("old,nwe", "study: '{root}/nwe' holds no study.yaml; did you mean 'new'?"),
        ("old,absent", "study: '{root}/absent' holds no study.yaml; studies in {root}: new, old"),
    ],
)
def test_a_study_that_cannot_be_compared_is_refused_in_one_line(root: Path, study: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        told(root, study=study)
    assert str(refused.value) == message.format(root=root)


def test_an_empty_study_is_refused(root: Path) -> None:
    write_study(root / "empty", rule=RULE).file.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="has no trial; the sweep's command goes on with it"):
        told(root, study="old,empty")


@pytest.mark.slow
def test_the_command_takes_names_with_a_comma_between_them(root: Path) -> None:
    done = run_command("report", "study=old,new", f"root={root}", cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "new against old" in done.stdout
    done = run_command("report", "study=old,nwe", f"root={root}", cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: study: ")
