"""`events.jsonl`: the moments of a study, which may be lost without harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import BARE, KEYWORDS, prepared, run

from gpuqa.study.event_log import PASS, SCORED, SCORING, STARTS, WARM, EventLog


@pytest.mark.engine
def test_a_study_notes_its_moments_in_their_order(tmp_path: Path) -> None:
    cells = prepared(BARE, KEYWORDS)
    run(cells, tmp_path)
    moments = EventLog(tmp_path).read()
    assert [moment.at for moment in moments] == sorted(moment.at for moment in moments)
    assert [moment.what for moment in moments].count(STARTS) == 1
    for cell in cells:
        own = [moment.what for moment in moments if moment.trial == cell.key[:16] and moment.what != STARTS]
        assert own == [WARM, PASS, SCORING, SCORED]


def test_a_line_that_is_torn_or_edited_is_left_out_and_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.read() == []
    log.note(STARTS, "a" * 64)
    with log.file.open("a", encoding="utf-8") as stream:
        stream.write('{"at": 1.0, "what": "cell wa\n[]\n{"at": "soon"}\n')
    log.note(WARM, "b" * 64)
    assert [(moment.what, moment.trial) for moment in log.read()] == [(STARTS, "a" * 16), (WARM, "b" * 16)]
    EventLog(tmp_path / "absent").note(STARTS, "a")
