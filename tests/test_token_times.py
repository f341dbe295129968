"""`workload.token_times`: a pass whose answers are streamed, on a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import prepared, run

ROW: dict[str, Any] = {"dataset__limit": 4, "sampling__max_tokens": 6}

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def test_gaps_between_tokens_are_measured_where_they_are_asked_for_and_the_text_stays_the_same(tmp_path: Path) -> None:
    cells = prepared(ROW, {**ROW, "workload__token_times": True})
    assert cells[0].key != cells[1].key, "streaming changes what is measured"
    outcome, _ = run(cells, tmp_path)
    whole, streamed = [trial.measurement for trial in outcome.trials]
    assert (whole.itl_ms_mean, whole.itl_ms_p50) == (None, None)
    assert 0 < streamed.itl_ms_mean < streamed.e2e_latency_ms_p50
    assert streamed.itl_ms_p50 > 0
    assert streamed.itl_ms_p99 is None, "four questions"
    assert (streamed.output_tokens, streamed.rouge_l_f1) == (whole.output_tokens, whole.rouge_l_f1)
    again, recorder = run(cells, tmp_path)
    assert (again.trials, recorder.passes) == (outcome.trials, [])
