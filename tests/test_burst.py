"""The burst scheduler against vLLM's own: the same tokens to the same requests, and every block back at the end."""

from __future__ import annotations

import itertools
import os
import random
import time
from functools import cache
from typing import Any

import pytest

pytest.importorskip("vllm")

from stand_in_runner import Client, Engine, Runner, answer, make_config, make_request, make_scheduler
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from gpuqa.engines import FOLLOWED
from gpuqa.engines.vllm.burst import handed_out
from gpuqa.engines.vllm.burst import scheduler as burst_scheduler
from gpuqa.engines.vllm.burst.scheduler import BurstScheduler

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]  # thousands of schedules

SCHEDULES = int(os.environ.get("GPUQA_BURST_SCHEDULES", "40"))  # for each of the four ways of running
MAX_MODEL_LEN = 64
WAYS = [(second_runner, depth) for second_runner in (False, True) for depth in (1, 2)]
NAMES = [f"{'second' if second_runner else 'first'}_runner-depth_{depth}" for second_runner, depth in WAYS]


config = cache(make_config)  # a configuration takes a tenth of a second to make


def params(rng: random.Random, plain: float) -> SamplingParams:
    """How one request wants its answer; `plain` is the share of those that no burst may touch."""
    chosen = SamplingParams(
        temperature=0.0,
        max_tokens=rng.choice([1, 2, 7, 20, 50, 200]),
        stop_token_ids=rng.sample(range(30), rng.choice([0, 1, 3])),
        stop=[str(rng.randrange(30))] if rng.random() < 0.2 else [],
        output_kind=RequestOutputKind.DELTA if rng.random() < 0.3 else RequestOutputKind.FINAL_ONLY,
        extra_args={FOLLOWED: 20} if rng.random() < 0.3 else {"mine": 1} if rng.random() < plain else None,
    )
    if rng.random() < 0.5:
        chosen._eos_token_id = rng.randrange(30)
    return chosen


def run(cls: type[Any], second_runner: bool, depth: int, seed: int) -> tuple[Engine, dict[str, Any], set[str]]:
    """One random schedule to its end: arrivals, stops, preemptions, aborts and resets."""
    rng = random.Random(seed)
    setting = config(rng.choice([4, 6, 16]), rng.choice([24, 64]), MAX_MODEL_LEN, rng.choice(["fcfs", "priority"]))
    scheduler = make_scheduler(cls, setting, rng.choice([18, 30, 60, 300]), second_runner)
    engine, wanted, aborted = Engine(scheduler, depth, Runner(MAX_MODEL_LEN)), {}, set()
    plain = rng.choice([0.0, 0.0, 0.0, 0.1])
    prefix = [rng.randrange(30) for _ in range(rng.choice([0, 9, 20]))]
    arrivals = sorted((rng.choice([0, 0, rng.randrange(60)]), name) for name in range(rng.randrange(1, 20)))
    for tick in range(10_000):
        while arrivals and arrivals[0][0] <= tick:
            name = str(arrivals.pop(0)[1])
            prompt = prefix + [rng.randrange(30) for _ in range(rng.randrange(1, 25))]
            wanted[name] = (prompt, params(rng, plain))
            engine.client.stop[name] = wanted[name][1].stop
            scheduler.add_request(make_request(name, *wanted[name], priority=rng.randrange(3)))
        abort = [name for name in wanted if name not in engine.client.reasons and rng.random() < 0.002]
        aborted.update(abort)
        if rng.random() < 0.004:
            scheduler.reset_prefix_cache(reset_running_requests=True)
        engine.step(abort)
        if not arrivals and not engine.busy:
            return engine, wanted, aborted
    raise AssertionError("the schedule does not end")


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize("cls", [AsyncScheduler, BurstScheduler])
def test_random_schedules_give_every_request_its_tokens_and_the_pool_its_blocks(
    cls: type[Any], way: tuple[bool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's own scheduler takes the same test, or the stand-in would prove nothing."""
    monkeypatch.setattr(burst_scheduler, "PATIENCE_S", 0.002)
    bursts = 0
    for seed in range(SCHEDULES):
        monkeypatch.setattr(burst_scheduler, "GATHERING_S", (0.0, 0.0005)[seed % 2])
        monkeypatch.setattr(burst_scheduler, "LOOKAHEAD", (1, 2, 5, 64)[seed % 4])
        engine, wanted, aborted = run(cls, *way, seed)
        scheduler = engine.scheduler
        for name, (prompt, sampling) in wanted.items():
            tokens, reason = answer(prompt, sampling, MAX_MODEL_LEN)
            got = engine.client.tokens.get(name, [])
            if name in aborted and name not in engine.client.reasons:
                assert got == tokens[: len(got)], (seed, name)
            else:
                assert (got, engine.client.reasons.get(name)) == (tokens, reason), (seed, name)
            if sampling.output_kind == RequestOutputKind.DELTA:
                assert all(len(piece) == 1 for piece in engine.client.pieces.get(name, [])), (seed, name)
        assert (scheduler.requests, scheduler.running) == ({}, []), seed
        free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        assert free == scheduler.kv_cache_config.num_blocks - 1, (seed, "blocks were lost; one is vLLM's null block")
        if cls is BurstScheduler:
            assert (scheduler.handed_out, len(scheduler.on_their_way), scheduler.burst) == ({}, 0, None), seed
            bursts += scheduler.steps["burst"]
    assert cls is AsyncScheduler or bursts > 10 * SCHEDULES


def filled(requests: list[tuple[list[int], SamplingParams]], blocks: int = 300, setting: Any = None) -> Engine:
    """A burst scheduler with these requests, two orders out at once."""
    scheduler = make_scheduler(BurstScheduler, setting or config(16, 64, MAX_MODEL_LEN, "fcfs"), blocks, True)
    for name, (prompt, sampling) in enumerate(requests):
        scheduler.add_request(make_request(str(name), prompt, sampling, priority=0))
    stop = {str(name): sampling.stop for name, (_, sampling) in enumerate(requests)}
    return Engine(scheduler, 2, Runner(MAX_MODEL_LEN), Client(stop))


def whole(**changes: Any) -> SamplingParams:
    """An answer of 30 tokens that is wanted whole."""
    return SamplingParams(**{"max_tokens": 30, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY, **changes})


def run_dry(engine: Engine) -> None:
    """Step until nothing is left."""
    while engine.busy:
        engine.step([])


def test_a_batch_bursts_and_its_clients_hear_of_each_answer_twice() -> None:
    engine = filled([([1, 2, 3 + number], whole()) for number in range(8)])
    run_dry(engine)
    assert engine.client.messages == 2 * 8, "the first token, for its time, and the rest"
    assert engine.scheduler.steps["plain"] <= 6 < 20 < engine.scheduler.steps["burst"]


def test_a_batch_wider_than_the_engine_bursts_while_the_others_wait() -> None:
    engine = filled([([1, 2, 3 + number], whole()) for number in range(24)])  # 16 run at once
    run_dry(engine)
    assert len(engine.client.reasons) == 24
    assert engine.scheduler.steps["burst"] > 3 * engine.scheduler.steps["plain"]


def test_a_batch_wider_than_the_admission_limit_bursts_while_the_others_wait() -> None:
    setting = make_config(16, 64, MAX_MODEL_LEN, "fcfs")
    setting.scheduler_config.max_num_active_seqs = 8  # vLLM lets no ninth request in, although 16 have room
    engine = filled([([1, 2, 3 + number], whole()) for number in range(24)], setting=setting)
    run_dry(engine)
    assert len(engine.client.reasons) == 24
    assert engine.scheduler.steps["burst"] > 3 * engine.scheduler.steps["plain"]


def test_answers_of_many_lengths_end_in_one_burst() -> None:
    engine = filled([([1, 2, 3 + number], whole(max_tokens=10 + 5 * number)) for number in range(8)])
    run_dry(engine)
    for number in range(8):
        prompt = [1, 2, 3 + number]
        assert engine.client.tokens[str(number)] == answer(prompt, whole(max_tokens=10 + 5 * number), MAX_MODEL_LEN)[0]
    assert engine.scheduler.steps["plain"] <= 6 < 40 < engine.scheduler.steps["burst"]


def test_a_batch_that_the_blocks_are_too_few_for_bursts_as_far_as_they_reach() -> None:
    engine = filled([([1, 2, 3 + number], whole()) for number in range(8)], blocks=60)  # 73 would do
    preempted = 0
    while engine.busy:
        engine.step([])
        preempted += sum(request.num_preemptions > 0 for request in engine.scheduler.waiting)
    assert preempted, "else there were blocks enough"
    for number in range(8):
        assert engine.client.tokens[str(number)] == answer([1, 2, 3 + number], whole(), MAX_MODEL_LEN)[0]
    assert engine.scheduler.steps["burst"] > 2 * engine.scheduler.steps["plain"]


def followed() -> SamplingParams:
    """Of a request that has another one of its batch right behind it."""
    return whole(extra_args={FOLLOWED: 1})


def test_a_batch_is_let_in_when_its_last_request_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst_scheduler, "PATIENCE_S", 60.0)
    engine = filled([([1, 2, 3 + number], followed()) for number in range(7)])
    for _ in range(3):
        engine.step([])
        assert engine.scheduler.running == []
    engine.scheduler.add_request(make_request("7", [7, 8, 9], whole(), priority=0))
    engine.step([])
    assert len(engine.scheduler.running) == 8
    run_dry(engine)
    assert len(engine.client.reasons) == 8
    assert engine.scheduler.steps["burst"] > 20, "to be followed by another request keeps nobody from a burst"


def test_a_batch_whose_last_request_never_comes_does_not_wait_for_ever() -> None:
    engine = filled([([1, 2, 3 + number], followed()) for number in range(8)])
    run_dry(engine)
    assert len(engine.client.reasons) == 8


def test_running_requests_do_not_wait_for_the_rest_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst_scheduler, "PATIENCE_S", 60.0)
    engine = filled([([1, 2, 3 + number], whole()) for number in range(8)])
    engine.step([])
    engine.scheduler.add_request(make_request("99", [7, 8, 9], followed(), priority=0))
    run_dry(engine)
    assert engine.client.tokens["99"] == answer([7, 8, 9], whole(), MAX_MODEL_LEN)[0]


def test_requests_that_come_during_a_burst_are_admitted_together_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst_scheduler, "GATHERING_S", 0.3)
    engine = filled([([1, 2, 3 + number], whole()) for number in range(8)])
    scheduler = engine.scheduler
    while scheduler.burst is None:
        engine.step([])
    plain, began = scheduler.steps["plain"], time.monotonic()
    for name in ("98", "99"):
        scheduler.add_request(make_request(name, [7, 8, int(name) % 10], whole(), priority=0))
        engine.step([])
        assert (scheduler.steps["plain"], name in engine.runner.states) == (plain, False), "the burst goes on"
    time.sleep(max(0.0, began + 0.3 - time.monotonic()))
    engine.step([])
    assert {"98", "99"} <= set(engine.runner.states)
    run_dry(engine)
    assert engine.client.tokens["99"] == answer([7, 8, 9], whole(), MAX_MODEL_LEN)[0]


def test_a_streamed_newcomer_is_let_in_with_the_next_step() -> None:
    engine = filled([([1, 2, 3 + number], whole()) for number in range(8)])
    while engine.scheduler.burst is None:
        engine.step([])
    streamed = whole(output_kind=RequestOutputKind.DELTA)
    engine.scheduler.add_request(make_request("99", [7, 8, 9], streamed, priority=0))
    engine.step([])
    assert "99" in engine.runner.states


def test_answers_with_stop_strings_burst_and_end_soon_after_them() -> None:
    prompts = [[1, 2, 3 + number] for number in range(8)]
    texts = [answer(prompt, whole(), MAX_MODEL_LEN)[0] for prompt in prompts]
    stopping = [whole(stop=[str(tokens[5 + 3 * number])], detokenize=True) for number, tokens in enumerate(texts)]
    engine = filled(list(zip(prompts, stopping, strict=True)))
    run_dry(engine)
    for number, (prompt, sampling) in enumerate(zip(prompts, stopping, strict=True)):
        wanted = answer(prompt, sampling, MAX_MODEL_LEN)
        assert (engine.client.tokens[str(number)], engine.client.reasons[str(number)]) == wanted
    assert 0 < engine.client.surplus < handed_out.STOP_STRING_TOKENS
    assert engine.scheduler.steps["plain"] <= 6 < 20 < engine.scheduler.steps["burst"]


@pytest.mark.parametrize(("interval", "pieces"), [(1, [1] * 30), (7, [1, 7, 7, 7, 7, 1])])
def test_streamed_answers_burst_and_each_piece_is_sent_when_it_is_there(interval: int, pieces: list[int]) -> None:
    setting = make_config(16, 64, MAX_MODEL_LEN, "fcfs")
    setting.scheduler_config.stream_interval = interval
    streamed = whole(output_kind=RequestOutputKind.DELTA)
    engine = filled([([1, 2, 3 + number], streamed) for number in range(8)], setting=setting)
    seen = []
    while engine.busy:
        engine.step([])
        seen.append(len(engine.client.tokens.get("7", [])))
    for number in range(8):
        assert engine.client.tokens[str(number)] == answer([1, 2, 3 + number], streamed, MAX_MODEL_LEN)[0]
        assert list(map(len, engine.client.pieces[str(number)])) == pieces
    assert max(after - before for before, after in itertools.pairwise(seen)) == interval
    assert engine.scheduler.steps["plain"] <= 6 < 20 < engine.scheduler.steps["burst"]


def test_streams_and_whole_answers_share_a_burst() -> None:
    kinds = [RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY, RequestOutputKind.CUMULATIVE]
    engine = filled([([1, 2, 3 + number], whole(output_kind=kinds[number % 3])) for number in range(9)])
    run_dry(engine)
    assert [len(engine.client.pieces[str(number)]) for number in range(9)] == [30, 2, 30] * 3
    assert engine.scheduler.steps["plain"] <= 6 < 20 < engine.scheduler.steps["burst"]


def test_a_request_that_is_given_up_leaves_the_others_in_their_burst() -> None:
    engine = filled([([1, 2, 3 + number], whole()) for number in range(8)])
    while engine.scheduler.burst is None or engine.scheduler.burst.scheduled < 5:
        engine.step([])
    burst = engine.scheduler.burst
    engine.step(["3", "4"])
    assert engine.scheduler.burst is burst
    run_dry(engine)
    assert sorted(engine.client.reasons) == ["0", "1", "2", "5", "6", "7"]
    for name in engine.client.reasons:
        assert engine.client.tokens[name] == answer([1, 2, 3 + int(name)], whole(), MAX_MODEL_LEN)[0]
    assert engine.scheduler.steps["plain"] <= 6 < 20 < engine.scheduler.steps["burst"]


LOGITS = {
    "penalties": {"repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.1},
    "min_tokens": {"min_tokens": 3},
    "bad_words": {"bad_words": ["x"]},
    "logit_bias": {"logit_bias": {3: 1.0}},
    "allowed_token_ids": {"allowed_token_ids": [3, 4]},
}


@pytest.mark.parametrize("name", LOGITS)
def test_what_the_model_runner_does_with_the_logits_keeps_no_request_from_a_burst(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = filled([([1, 2, 3 + number], whole(**LOGITS[name])) for number in range(8)])
    run_dry(engine)
    assert engine.scheduler.steps["plain"] <= 6 < 20 < engine.scheduler.steps["burst"]
    assert "vLLM's own scheduling" not in caplog.text


PLAIN = {
    "logprobs": {"logprobs": 1},
    "a thinking budget": {"thinking_token_budget": 3},
    "extra_args": {"extra_args": {"mine": 1}},
    "repetition detection": {"repetition_detection": RepetitionDetectionParams(max_pattern_size=2, min_count=9)},
}


@pytest.mark.parametrize("reason", PLAIN)
def test_an_unusual_request_takes_vllms_own_path_and_that_is_said_once(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    unusual = whole(**PLAIN[reason])
    engine = filled([([1, 2, 3 + number], unusual) for number in range(8)])
    run_dry(engine)
    assert engine.scheduler.steps["burst"] == 0
    assert not engine.scheduler.handed_out
    assert len(engine.client.reasons) == 8
    said = [record.message for record in caplog.records if "vLLM's own scheduling" in record.message]
    assert said == [f"a request takes vLLM's own scheduling: {reason}"]


def test_an_engine_that_holds_prefills_back_runs_as_vllm_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    setting = make_config(16, 64, MAX_MODEL_LEN, "fcfs")
    setting.scheduler_config.prefill_schedule_interval = 4
    assert not make_scheduler(BurstScheduler, setting, 300, True).usable
    assert "engine.scheduler=burst is off: prefills held back for some steps" in caplog.messages


def test_an_engine_that_it_does_not_know_runs_as_vllm_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    setting = make_config(16, 64, MAX_MODEL_LEN, "fcfs")
    setting.parallel_config.pipeline_parallel_size = 2
    scheduler = make_scheduler(BurstScheduler, setting, 300, True)
    assert not scheduler.usable
    assert [record.message for record in caplog.records if "burst" in record.message] == [
        "engine.scheduler=burst is off: pipeline parallelism"
    ]
