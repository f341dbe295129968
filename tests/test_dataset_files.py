"""From a file to rows: encodings, JSON in its forms, tables that would shift, and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from question_files import as_list, json_lines, pairs_of, read, refusal, written

from gpuqa.config import UserError
from gpuqa.pipeline.dataset import digest
from gpuqa.pipeline.dataset.files import decoded

PAIRS = [("什么是 warp？", "线程束：32 个线程。"), ("NA", "null, \t 1.0"), ("多行\n问题；是吗", '他说"是"')]
GOOD = {"question": "q", "answer": "a"}
ROWS = [{"question": question, "answer": answer} for question, answer in PAIRS]


# Tables


@pytest.mark.parametrize(
    "header", [("question", "answer"), ("Question", " ANSWER "), ("Instruction", "Output"), ("问题", "答案")]
)
@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".csv", ";"), (".csv", "\t"), (".TSV", "\t")])
def test_a_table_gives_the_same_questions_and_digest_as_json(
    ending: str, separator: str, header: tuple[str, str], tmp_path: Path
) -> None:
    with (path := tmp_path / f"questions{ending}").open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=separator).writerows([header, *PAIRS])
    assert digest(read(path)) == digest(read(written(tmp_path / "plain", as_list(*ROWS))))


def test_a_column_without_a_name_may_be_there_if_it_is_empty_and_so_may_empty_rows(tmp_path: Path) -> None:
    content = "question,answer,\na,b,\n,,\n\nc,d,\n"
    assert pairs_of(written(tmp_path / "questions.csv", content)) == [("a", "b"), ("c", "d")]


def test_other_columns_do_not_matter_and_an_empty_id_is_none(tmp_path: Path) -> None:
    path = written(tmp_path / "questions.csv", "id,question,topic,answer\nx,a,memory,b\n,c,,d\n")
    assert [(question.id, question.text, question.reference) for question in read(path)] == [("x", "a", "b"), ("2", "c", "d")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no questions"),
        ("question,answer\n", "holds no questions"),
        ("question,answer\na,b,\nc,d,\n", "line 2: has 3 cells, the first line names 2 columns (question, answer); put cells"),
        ("question,answer\na,b\n\nc,d,e\n", "line 4: has 3 cells"),
        ("question,answer\na\n", "line 2: has 1 cells"),
        ("question,answer,\na,b,c\n", "line 2: 'c' stands in a column without a name; the first line names question, answer"),
        ("question,answer,Answer\na,b,c\n", "line 1: two columns are called 'Answer'; rename or remove one"),
        ('question,answer\na,"b\nc,d\n', "line 2: is not a valid table: unexpected end of data; quote cells"),
        ('question,answer\na,"b"c\n', "line 2: is not a valid table"),
        (
            f"question,answer\na,{'x' * 131_073}\n",
            "line 2: is not a valid table: a cell has more than 131,072 characters; close a quote that was left open, or write",
        ),
        (f"question,{'x' * 131_073}\na,b\n", "line 1: is not a valid table: a cell has more than 131,072 characters"),
        ("question,answer\rmore\na,b\n", "line 2: has 1 cells"),
        ("sep=;\nquestion;answer\na;b\n", "line 1: 'sep=' is for spreadsheets alone; remove this line, the separator is"),
        ('"sep=,"\nquestion,answer\na,b\n', "line 1: 'sep=,' is for spreadsheets alone; remove this line"),
        (
            "My questions,,\nid,question,answer\n1,a,b\n",
            "line 1: 'My questions' is the name of one column, and a table has two",
        ),
        (
            "\nMy questions\nid,question,answer\n1,a,b\n",
            "line 2: 'My questions' is the name of one column, and a table has two",
        ),
        ("什么是 warp？,32 个线程\na,b\n", "row 1 (line 2) has the fields '什么是 warp？', '32 个线程', but a row needs"),
        (
            "question,anwser\na,b\n",
            "row 1 (line 2) has 'question' and no answer: looked for 'answer'; its other fields are 'anwser' (did you mean",
        ),
    ],
)
def test_a_table_that_would_be_read_wrongly_is_refused_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "questions.csv", content)).startswith(message)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gbk", "gb18030"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".txt"])
def test_usual_encodings_are_recognised(ending: str, encoding: str, tmp_path: Path) -> None:
    question, answer = "warp 里有多少个线程？", "联通 32 个线程。"  # 联通 in GBK is famous for looking like UTF-8
    content = {
        ".json": as_list({"question": question, "answer": answer}),
        ".jsonl": json_lines([{"question": question, "answer": answer}] * 2),
        ".csv": f"question,answer\n{question},{answer}\n",
        ".txt": f"1. 问题：{question}\n答案：{answer}",
    }[ending]
    path = written(tmp_path / f"questions{ending}", content, encoding)
    assert pairs_of(path)[0] == (question, answer)
    assert decoded(path.read_bytes())[1].name.startswith(
        encoding.replace("-", "_").removesuffix("_sig").replace("gbk", "gb18030")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            as_list(*ROWS).encode()[:-40] + as_list(*ROWS).encode()[-39:],
            r"byte \d+ is not UTF-8",
        ),  # as GB18030 it would be read
        (b'[{"question": "caf\xe9", "answer": "a"}]', "byte 19 is not GB18030"),
        (
            as_list({"question": "什麼是執行緒束？", "answer": "記憶體合併存取"}).encode("big5"),
            "as GB18030 most of its characters",
        ),
        (as_list({"question": "a naïve kernel", "answer": "a"}).encode("latin-1"), "as GB18030 most of its characters"),
        (b"\xff\xfe\x00\xd8", r"byte \d is not UTF-16"),
        (b'[{"question": "a\x00", "answer": "b"}]', "it holds characters of value 0"),
    ],
    ids=["damaged UTF-8", "Latin-1", "Big5", "Latin-1 that could be GB18030", "half of a UTF-16 pair", "binary"],
)
def test_what_is_no_text_is_refused_with_the_way_to_convert_it(data: bytes, reason: str, tmp_path: Path) -> None:
    (path := tmp_path / "questions.json").write_bytes(data)
    message = refusal(path)
    assert message.startswith("is not text in UTF-8, UTF-16 or GB18030 (")
    assert re.search(reason, message)
    assert "iconv -f" in message


def archive(file: str) -> bytes:
    """A zip archive that holds one empty file."""
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
        archive.writestr(zipfile.ZipInfo(file), "")  # of a fixed date: the bytes are part of a test's name
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("questions.xlsx", archive("[Content_Types].xml"), "is an Excel workbook or another Office file, not text; save the"),
        ("questions.csv", archive("xl/workbook.xml"), "is an Excel workbook or another Office file, not text; save the sheet"),
        ("questions.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook or another file of old Office, not text;"),
        ("questions.json", archive("questions.json"), "is a zip archive, not text; unpack it and name the file in it"),
        ("questions.json.gz", gzip.compress(b"[]", mtime=0), "is a gzip archive, not text; unpack it and name the file in it"),
        ("questions.json", b"\n<!-- 404 -->\n<!DOCTYPE html><html>", "is an HTML page, not text; a web page came in place of"),
        ("questions.json", b"\xef\xbb\xbf<HTML lang='zh'>", "is an HTML page, not text; a web page came in place of the file"),
        ("questions.xml", b"<?xml version='1.0'?>", "is an XML file, not text; write its questions as CSV or JSON"),
        ("questions.pdf", b"%PDF-1.7", "is a PDF, not text; write its questions as CSV or JSON"),
        ("questions", b"PAR1", "is a Parquet file, not text; give it the ending .parquet"),
        (
            "questions.json",
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a git-LFS pointer, not text; run `git lfs pull`",
        ),
    ],
)
def test_a_file_of_another_kind_is_named_as_what_it_is(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (path := tmp_path / name).write_bytes(data)
    assert refusal(path).startswith(message)


# JSON


@pytest.mark.parametrize(
    "to_text",
    [
        lambda rows: as_list(*rows),
        lambda rows: json.dumps({"version": 1, "data": rows}, indent=2),
        lambda rows: json_lines(rows),
        lambda rows: "\n\n".join(json.dumps(row) for row in rows),
    ],
    ids=["a list", "a list under data", "lines", "lines with blank ones"],
)
def test_json_is_read_in_all_its_forms(to_text: Callable[[object], str], tmp_path: Path) -> None:
    assert pairs_of(written(tmp_path / "questions", to_text(ROWS))) == PAIRS


def test_one_object_is_one_row_however_many_lines_it_has(tmp_path: Path) -> None:
    assert pairs_of(written(tmp_path / "one.json", json.dumps(GOOD, indent=1))) == [("q", "a")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"question": "q", "answer": "a"}', "is not valid JSON: Expecting ',' delimiter: line 1 column 34"),
        (json_lines([GOOD]) + "\n{oops}\n", "line 3 is not valid JSON: Expecting property name"),
        (
            "{oops}\n" + json_lines([GOOD]),
            "is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2",
        ),
        ('[{"question": "q", "answer": "a", "answer": "b"}]', "holds an object with 'answer' twice; keep one of them"),
        (json_lines([GOOD]) + '{"answer": "a", "question": "q", "answer": "b"}', "line 2 holds an object with 'answer' twice"),
        ("[" * 100_000, "is JSON that cannot be read: maximum recursion depth"),
        (f'[{{"question": "q", "answer": {"1" * 5000}}}]', "is JSON that cannot be read: Exceeds the limit (4300 digits)"),
        (as_list(GOOD, "oops"), "row 2 is 'oops', text, not an object; a row needs"),
        (as_list(GOOD, None), "row 2 is null, not an object"),
        (json_lines([GOOD, GOOD]) + "\n[1]", "row 3 (line 4) is a list of 1, not an object"),
        ("[]", "holds no questions"),
        ('{"data": []}', "holds no questions"),
        (" \n\n", "holds no questions"),
        ("Some prose about GPUs.", "holds no questions"),
    ],
)
def test_json_that_cannot_be_used_is_refused_with_its_place(content: str, message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "bad file.json", content)).startswith(message)


# Parquet


def test_a_parquet_file_gives_the_same_questions_and_digest_as_json(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    turns = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in PAIRS]
    for name, columns in {"pairs": arrow.Table.from_pylist(ROWS), "chats": arrow.table({"messages": turns})}.items():
        parquet.write_table(columns, tmp_path / f"{name}.parquet")
        assert digest(read(tmp_path / f"{name}.parquet")) == digest(read(written(tmp_path / "plain", as_list(*ROWS))))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert refusal(written(tmp_path / "questions.parquet", "PAR1 oops")).startswith("is not a valid Parquet file: ")


def test_without_its_package_a_parquet_file_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed: importing it raises ImportError
    message = refusal(written(tmp_path / "questions.parquet", "PAR1"))
    assert message == "is a Parquet file, and the package that reads it is missing: pip install pyarrow"


# Anything


pieces = st.sampled_from(
    [
        "1. 问题：",
        "答案：",
        "Q:",
        "A:",
        "（",
        "）",
        "**",
        "\n",
        " ",
        "\t",
        ",",
        ";",
        '"',
        "\r\n",
        "问题",
        "字",
        "id",
        "\ufeff",
        "\x00",
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    ending=st.sampled_from([".csv", ".tsv", ".txt", ".json"]),
    data=st.lists(pieces, max_size=30).map("".join).map(str.encode) | st.binary(),
)
def test_any_file_is_either_read_or_refused_in_one_line(
    ending: str, data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (path := tmp_path_factory.getbasetemp() / f"any{ending}").write_bytes(data)
    try:
        read(path)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message


def test_a_long_run_of_blanks_costs_no_time(tmp_path: Path) -> None:
    blanks = " " * 50_000
    path = written(tmp_path / "blocks.txt", f"{blanks}\n1. 问题：甲\n{blanks}1{blanks}\n答案：一{blanks}问题\n{blanks}")
    began = time.perf_counter()
    assert len(read(path)) == 1
    assert time.perf_counter() - began < 2
