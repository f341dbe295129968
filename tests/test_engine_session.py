"""What a session gets and gives: steps in, events out, both as another process would get them. Real engines.

The transformers backend runs the embedded model here, because it starts in a moment; the fixtures are test_study's.
"""

from __future__ import annotations

import asyncio
import pickle
import platform
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from small_study import BARE, KEYWORDS, NARROW, Recorder, prepared

from gpuqa.machine import hardware
from gpuqa.measure.trial import PassRequest
from gpuqa.records import Pass
from gpuqa.study import study
from gpuqa.study.engine_session import (
    CellFailed,
    CellWarm,
    EngineSession,
    EngineStarts,
    Event,
    PassDone,
    StartFailed,
    Step,
)
from gpuqa.study.executors.local import LocalPlace
from gpuqa.study.journal import Journal

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def copied(value: Any) -> Any:
    """The value as another process would get it."""
    return pickle.loads(pickle.dumps(value))


class Elsewhere:
    """A session at the other end of a pipe, as far as its consumer can tell: all that goes in or comes out is pickled."""

    def __init__(self, log: Path) -> None:
        self.session = EngineSession(copied(log))

    async def open(self) -> None: ...

    async def measure(self, step: Step) -> AsyncGenerator[Event]:
        async with aclosing(self.session.measure(copied(step))) as events:
            async for event in events:
                yield copied(event)

    async def close(self) -> None:
        await self.session.close()

    async def end(self) -> None:
        await self.session.close()


class ElsewherePlace(LocalPlace):
    """A place whose engines run in this process."""

    def session(self, log: Path) -> Elsewhere:  # type: ignore[override]
        return Elsewhere(log)


@pytest.mark.parametrize("racing", [False, True])
def test_a_study_is_the_same_when_all_that_crosses_to_its_engines_is_pickled(racing, tmp_path) -> None:
    more = {"study__racing": racing, "study__racing_first_slice": 2, "dataset__limit": 8}
    more |= {"selection__min_rouge_l_f1_judge": 0.0, "selection__max_truncated_fraction": 1.0}
    cells = prepared({**BARE, **more}, {**KEYWORDS, **more}, {**NARROW, **more})
    recorder = Recorder(Journal(tmp_path))
    outcome = asyncio.run(study.run(cells, recorder.journal, recorder, [ElsewherePlace("elsewhere")]))
    assert outcome.engine_starts == 2
    assert [trial.error for trial in outcome.trials] == [None] * 3
    assert len(recorder.passes) >= 3, "racing goes through the executors too"
    assert not any(trial.skipped for trial in outcome.trials)


async def events_of(session: EngineSession, steps: Sequence[Step]) -> list[Event]:
    events = [event for step in steps async for event in session.measure(step)]
    await session.close()
    return events


def test_a_session_warms_all_cells_of_a_step_and_yields_the_pass_it_was_asked_for(tmp_path: Path) -> None:
    first, second = cells = prepared(BARE, KEYWORDS)
    steps = [Step(cells, PassRequest(cell, repeat, cell.questions)) for repeat, cell in enumerate((second, first))]
    events = asyncio.run(events_of(EngineSession(tmp_path / "engine.log"), steps))
    kinds = [(type(event), event.key) for event in events]
    assert kinds[:3] == [(EngineStarts, first.key), (CellWarm, first.key), (CellWarm, second.key)]
    assert kinds[3:] == [(PassDone, second.key), (PassDone, first.key)]
    passes = [event.measured for event in events if isinstance(event, PassDone)]
    assert [measured.repeat for measured in passes] == [0, 1]
    assert [measured.round for measured in passes] == [0, 1]


def test_a_pass_names_the_start_of_its_engine_the_machine_and_the_questions(tmp_path: Path) -> None:
    class Keeps(Recorder):
        kept: list[Pass]

        def pass_done(self, cell: Any, measured: Pass) -> None:
            super().pass_done(cell, measured)
            self.kept = [*getattr(self, "kept", []), measured]

    cells = prepared({**BARE, "workload__repeats": 2}, KEYWORDS, NARROW)
    recorder = Keeps(Journal(tmp_path))
    asyncio.run(study.run(cells, Journal(tmp_path), recorder))
    starts = list(dict.fromkeys(measured.engine_id for measured in recorder.kept))
    assert [len(name) for name in starts] == [32, 32], "one for each start"
    for name in starts:
        rounds = [measured.round for measured in recorder.kept if measured.engine_id == name]
        assert rounds == list(range(len(rounds)))
    for measured in recorder.kept:
        assert measured.host == platform.node()
        assert measured.device == hardware.describe()["device"]
        assert measured.question_digests == [question.digest for question in cells[0].questions]


def test_an_engine_that_does_not_start_or_breaks_is_an_event_and_the_next_step_starts_a_new_one(tmp_path, engines) -> None:
    [bad] = prepared({**BARE, "engine__args__attn_implementation": "no_such_attention"})
    slow, good = prepared({**BARE, "workload__answer_timeout_s": 0.001}, BARE)
    request = [Step([cell], PassRequest(cell, 0, cell.questions)) for cell in (bad, slow, good)]
    (starting, failed) = asyncio.run(events_of(EngineSession(tmp_path / "engine.log"), request[:1]))
    assert isinstance(starting, EngineStarts)
    assert isinstance(failed, StartFailed)
    assert "no_such_attention" in failed.error
    events = asyncio.run(events_of(EngineSession(tmp_path / "engine.log"), request[1:]))
    assert [type(event) for event in events] == [EngineStarts, CellWarm, CellFailed, EngineStarts, CellWarm, PassDone]
    assert engines == ["start", "start", "close", "start", "close"]


def test_a_cell_that_is_not_among_the_warm_ones_is_asked_without_a_warm_up_of_its_own(tmp_path) -> None:
    warm, tried = prepared(BARE, KEYWORDS)

    async def events() -> list[Event]:
        session = EngineSession(tmp_path / "engine.log")
        steps = [Step([warm], PassRequest(cell, 0, cell.questions)) for cell in (tried, warm, tried)]
        try:
            return [event for step in steps async for event in session.measure(step)]
        finally:
            await session.close()

    seen = asyncio.run(events())
    assert [type(event) for event in seen] == [EngineStarts, CellWarm, PassDone, PassDone, PassDone]
    assert [event.key for event in seen] == [warm.key, warm.key, tried.key, warm.key, tried.key]
    first, own, second = [event.measured for event in seen if isinstance(event, PassDone)]
    assert (first.warmup_s, second.warmup_s) == (0.0, 0.0)
    assert own.warmup_s > 0
    texts = [[completion.text for completion in measured.answered.completions] for measured in (first, own, second)]
    assert texts[0] == texts[2]
