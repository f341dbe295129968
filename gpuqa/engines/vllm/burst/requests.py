"""Requests that do nothing but decode, kept in arrays for the length of a burst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from gpuqa.engines import FOLLOWED
from gpuqa.engines.vllm.burst.handed_out import HandedOut


@dataclass(slots=True)
class Step:
    """One step of a burst that the model runner has, or will get."""

    output: SchedulerOutput
    burst: Burst
    ids: list[str]  # of the requests that get a token by it
    rows: np.ndarray  # int64 [len(ids)]: their rows in the burst's arrays, ascending


class Burst:
    """Requests that decode together, one token a step for each.

    All arrays have a row for each of the R requests that the burst began with, in the order of `requests`; a row keeps its
    number until the burst ends. `steps` says how many steps each request may take in this burst. A request that has taken
    them is left out of the next step, and stays in the burst until its last token is there.
    """

    def __init__(self, running: list[HandedOut], new_blocks: list[Any], steps: list[int], max_model_len: int) -> None:
        self.handed_out, self.requests = running, [handed_out.request for handed_out in running]
        # whether all requests end within the burst
        self.lasts = all(
            steps_left(request, max_model_len) <= limit for request, limit in zip(self.requests, steps, strict=True)
        )
        self.steps, self.scheduled, self.max_model_len = np.array(steps, dtype=np.int64), 0, max_model_len  # steps: [R]
        # Of each request the ids of its new blocks for each KV cache group, or None; sent once, with the first step.
        self.new_blocks: list[Any] | None = new_blocks
        # int64 [R]: tokens with keys and values when the burst began, and output tokens then, those on their way included
        self.computed = np.array([request.num_computed_tokens for request in self.requests], dtype=np.int64)
        self.output = np.array(
            [request.num_output_tokens + request.num_output_placeholders for request in self.requests], dtype=np.int64
        )
        # int64 [R, longest of steps]: token ids that came, the first taken[row] of a row; the request has settled[row] of them
        self.tokens = np.zeros((len(running), max(steps)), dtype=np.int64)
        self.taken = np.zeros(len(running), dtype=np.int64)  # [R]
        self.settled = np.zeros(len(running), dtype=np.int64)  # [R]
        self.counted = np.zeros(len(running), dtype=np.int64)  # [R]: scheduled steps that are in the request's own counters
        # int64 [R], from the first tokens on: how many end the request by a limit, and with how many the next are to be sent
        self.limits: np.ndarray | None = None
        self.due = np.zeros(len(running), dtype=np.int64)
        self.together = np.array([handed_out.together for handed_out in running], dtype=np.int64)  # [R]
        self.alive = np.ones(len(running), dtype=bool)  # [R]: not finished
        # int64, sorted: token ids that may end any of the requests
        self.stops = np.array(sorted({stop for request in self.requests for stop in stop_token_ids(request)}), dtype=np.int64)
        self.gathers_until: float | None = None  # on the monotonic clock: its end, for the sake of requests that wait
        self.choose_rows()

    @property
    def goes_on(self) -> bool:
        """Whether another step may be scheduled."""
        return len(self.ids) > 0

    def choose_rows(self) -> None:
        """Schedule, from now on, the requests that are alive and have steps left.

        `rows` is int64 [S], `ids` has the S request ids in the same order, and `one_token_each` maps them to 1. The dictionary
        stays the same object from step to step, by which the model runner recognises a step that repeats the one before.
        """
        self.rows = np.flatnonzero(self.alive & (self.steps > self.scheduled))
        self.until = int(self.steps[self.rows].min(initial=self.steps.max()))  # the step at which the next one has none left
        self.ids = [self.requests[row].request_id for row in self.rows]
        self.one_token_each = dict.fromkeys(self.ids, 1)

    def step_is_scheduled(self) -> None:
        """Count a step of all `rows`, one token each."""
        self.scheduled += 1
        if self.scheduled >= self.until:
            self.choose_rows()

    def request_data(self) -> CachedRequestData:
        """Where each request of `rows` stands before the next step, in the form in which vLLM sends it to the model runner."""
        blocks, self.new_blocks = self.new_blocks, None
        return CachedRequestData(
            req_ids=self.ids,
            resumed_req_ids=set(),
            new_token_ids=[],
            all_token_ids={},
            new_block_ids=[None] * len(self.ids) if blocks is None else [blocks[row] for row in self.rows],
            num_computed_tokens=(self.computed[self.rows] + self.scheduled).tolist(),
            num_output_tokens=(self.output[self.rows] + self.scheduled).tolist(),
        )

    def take(self, step: Step, model_runner_output: Any) -> tuple[np.ndarray, list[bool]]:
        """Keep the tokens of one step; returns the rows, int64, whose request may be done, by a stop token or by a limit, or
        has tokens that are to be sent now; and of each whether it is the former.

        vLLM's output has for each request, in an order of its own, the list of its sampled token ids: one here.
        """
        tokens = np.array([sampled[0] for sampled in model_runner_output.sampled_token_ids], dtype=np.int64)
        if model_runner_output.req_ids != step.ids:
            tokens = tokens[[model_runner_output.req_id_to_index[request_id] for request_id in step.ids]]
        if self.limits is None:  # only now is every token from before the burst in the requests
            self.limits = np.array([tokens_left(request, self.max_model_len) for request in self.requests], dtype=np.int64)
            self.due = self.together - [each.request.num_output_tokens - each.tokens for each in self.handed_out]
        rows = step.rows
        self.tokens[rows, self.taken[rows]] = tokens
        self.taken[rows] += 1
        taken = self.taken[rows]
        is_due = taken >= self.due[rows]
        self.due[rows] += np.where(is_due, self.together[rows], 0)
        may_be_done = np.isin(tokens, self.stops) | (taken >= self.limits[rows])
        chosen = (may_be_done | is_due) & self.alive[rows]
        return rows[chosen], may_be_done[chosen].tolist()

    def settle(self, rows: np.ndarray) -> list[Request]:
        """Write the steps and tokens so far of some rows into the requests' own fields, and return these requests."""
        requests = [self.requests[row] for row in rows]
        scheduled, taken = np.minimum(self.scheduled, self.steps[rows]), self.taken[rows]
        counts = [(scheduled - self.counted[rows]).tolist(), self.settled[rows].tolist(), taken.tolist()]
        for row, request, steps, begin, end in zip(rows, requests, *counts, strict=True):
            request.num_computed_tokens += steps
            request.num_in_flight_tokens += steps - (end - begin)
            request.num_output_placeholders += steps - (end - begin)
            if end > begin:  # as `append_output_token_ids` does it, but for the hashes, which are not needed at once
                tokens = self.tokens[row, begin:end].tolist()
                request._output_token_ids.extend(tokens)
                request._all_token_ids.extend(tokens)
        self.counted[rows], self.settled[rows] = scheduled, taken
        return requests

    def living(self, ids: set[str] | None = None) -> np.ndarray:
        """The rows, int64, of the requests that are alive; of these ids alone, where they are given."""
        rows = np.flatnonzero(self.alive)
        return rows if ids is None else rows[[self.requests[row].request_id in ids for row in rows]]

    def drop_finished(self) -> None:
        """Leave out requests that are finished meanwhile."""
        finished = [row for row in np.flatnonzero(self.alive) if self.requests[row].is_finished()]
        if finished:
            self.alive[finished] = False
            self.choose_rows()


def followers(request: Request) -> int:
    """How many more requests of the same batch come right behind it, as its client wrote into `extra_args`."""
    params = request.sampling_params
    return int((params.extra_args or {}).get(FOLLOWED, 0)) if params is not None else 0


def only_decodes(request: Request) -> bool:
    """Whether the request's next step is one token after its last, whatever is still on its way."""
    fresh = request.spec_token_ids or request.num_stale_output_tokens
    prefilled = not request.is_prefill_chunk and request.num_computed_tokens >= request.num_prompt_tokens
    return prefilled and request.status == RequestStatus.RUNNING and not fresh


def steps_left(request: Request, max_model_len: int) -> int:
    """Steps that may still be scheduled: the one at position `p` makes the token at `p + 1`, which must exist."""
    end = min(request.num_prompt_tokens + request.max_tokens, max_model_len)
    return int(end - 1 - request.num_computed_tokens)


def tokens_left(request: Request, max_model_len: int) -> int:
    """Tokens until the request's own limit or the model's ends it."""
    return int(min(request.max_tokens - request.num_output_tokens, max_model_len - request.num_tokens))


def stop_token_ids(request: Request) -> set[int]:
    """Tokens that may end the request; `check_stop` has the last word."""
    params = request.sampling_params
    eos = set() if params.eos_token_id is None else {params.eos_token_id}
    return eos | set(params.stop_token_ids or ())
