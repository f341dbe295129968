"""Files are replaced whole or not at all: on a real file system, with a real limit, and with a real kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuqa.config.paths import PACKAGE
from gpuqa.machine.files import FileNotWritten, append_line, make_folder, write_atomically

LIMITED = """
import resource, sys
from pathlib import Path
from gpuqa.machine.files import FileNotWritten, append_line, write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
file = Path(sys.argv[1])
for write, content in ((write_atomically, "new" * 10_000), (append_line, "new" * 10_000)):
    try:
        write(file, content)
    except FileNotWritten as error:
        print(error)
"""


def python(code: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("content", ["", "第一行\n第二行\r\n", b"\x00\xff"])
def test_what_was_written_is_what_is_there_and_nothing_lies_beside_it(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "file"
    file.write_text("older and longer than what comes now")
    write_atomically(file, content)
    assert file.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_would_be_too_large_stays_as_it_was_and_the_error_names_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old\n")
    said, _ = python(LIMITED, str(file)).communicate(timeout=60)
    wanted = f"{file} cannot be written: File too large; all that was finished before is kept"
    assert [line.startswith(wanted) for line in said.splitlines()] == [True, True], said
    assert file.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_sees_the_old_content_or_the_new_one_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, "0" * 1_000_000)
    code = """
import sys
from pathlib import Path
from gpuqa.machine.files import write_atomically
print("ready", flush=True)
for number in range(1_000_000):
    write_atomically(Path(sys.argv[1]), str(number % 10) * 1_000_000)
"""
    for round_ in range(5):
        writer = python(code, str(file))
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.03 * round_)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        content = file.read_text()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1


def test_a_link_stays_a_link_and_its_target_gets_the_content(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_instead_of_being_replaced() -> None:
    code = 'from pathlib import Path; from gpuqa.machine.files import write_atomically as w; w(Path("/dev/stdout"), "said")'
    said, _ = python(code).communicate(timeout=60)
    assert said == "said"


@pytest.mark.parametrize("write", [write_atomically, append_line])
def test_a_folder_in_the_files_place_is_named(tmp_path: Path, write: object) -> None:
    with pytest.raises(FileNotWritten, match=f"{tmp_path} cannot be written: Is a directory"):
        write(tmp_path, "text")  # type: ignore[operator]


def test_a_folder_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotWritten, match="file/folder cannot be written: Not a directory"):
        make_folder(tmp_path / "file" / "folder")


def test_lines_are_appended_and_a_torn_one_is_closed_first(tmp_path: Path) -> None:
    file = tmp_path / "file"
    append_line(file, "一")
    append_line(file, "二")
    assert file.read_text(encoding="utf-8") == "一\n二\n"
    file.write_text("一\n二", encoding="utf-8")
    append_line(file, "三")
    assert file.read_text(encoding="utf-8") == "一\n二\n三\n"
