"""The scheduler; see the package."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import Any

import numpy as np
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.utils import check_stop
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus

from gpuqa.engines.vllm.burst.handed_out import HandedOut, sent_together
from gpuqa.engines.vllm.burst.requests import Burst, Step, followers, only_decodes, steps_left
from gpuqa.engines.vllm.burst.unsupported import unsupported_engine, unsupported_request
from gpuqa.engines.vllm.override_reports import State, report

log = init_logger(__name__)

LOOKAHEAD = 64  # tokens of KV cache that a burst takes for each request beforehand where blocks are scarce
PATIENCE_S = 0.05  # that the first requests of a batch wait for the one behind them, which a client may have taken back
NAP_S = 60e-6  # for each that is still to come; they come every 100 us on an H200's host, slower when something else runs
LONGEST_NAP_S = 0.02
GATHERING_S = 0.01  # that requests which come during a burst wait for more of them: each end of a burst costs a step or two


class BurstScheduler(AsyncScheduler):  # type: ignore[misc]  # vLLM's modules are skipped by the type checker
    """vLLM's scheduler with bursts."""

    running: list[Request]
    finished_req_ids: set[str]
    reset_preempted_req_ids: set[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.burst: Burst | None = None
        self.on_their_way: deque[Step] = deque()  # steps of bursts that the model runner has not answered yet
        self.handed_out: dict[str, HandedOut] = {}  # request id -> what its client has of it; plain requests are absent
        self.followers, self.waits_until = 0, 0.0  # the rest of a batch, and when (monotonic clock) it is no longer waited for
        self.leaving: list[Request] = []  # their last tokens are handed out, their blocks not cached and freed yet
        self.steps = {"burst": 0, "plain": 0}
        self.logged: set[str] = set()
        reason = unsupported_engine(self)
        self.usable = reason is None
        report("scheduler", State.on if self.usable else State.off, reason or "")
        if reason:
            self._warn_once(f"engine.scheduler=burst is off: {reason}")

    # ---------------------------------------------------------------- requests come and end

    def add_request(self, request: Request) -> None:
        if self.usable and request.request_id not in self.requests:
            if reason := unsupported_request(request):
                if self._warn_once(f"a request takes vLLM's own scheduling: {reason}"):
                    report("scheduler", State.partly, f"requests took vLLM's own scheduling: {reason}")
            else:
                together = sent_together(request, self.scheduler_config.stream_interval)
                self.handed_out[request.request_id] = HandedOut(request, together)
            self.followers, self.waits_until = followers(request), time.monotonic() + PATIENCE_S
        super().add_request(request)

    def has_finished_requests(self) -> bool:
        return bool(self.leaving) or bool(super().has_finished_requests())

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> Any:
        ids = None if request_ids is None else {request_ids} if isinstance(request_ids, str) else set(request_ids)
        self._let_go()
        self._settle(ids)
        finished = super().finish_requests(ids, finished_status)
        for request in finished:
            self.handed_out.pop(request.request_id, None)
        if self.burst is not None:
            self.burst.drop_finished()
        return finished

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        self._let_go()
        self._settle()
        return bool(super().reset_prefix_cache(*args, **kwargs))

    # ---------------------------------------------------------------- before the model runs

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        undisturbed = self._undisturbed()
        if undisturbed and self._awaits_last_tokens():
            return self._empty_step()
        self._let_go()
        if self.burst is not None and not (undisturbed and self.burst.goes_on):
            self._settle()
        if self._awaits_followers():
            time.sleep(min(self.followers * NAP_S, LONGEST_NAP_S))
            return self._empty_step()
        if self.burst is None and undisturbed:
            self.burst = self._begin()
        if self.burst is not None:
            self.steps["burst"] += 1
            return self._burst_step(self.burst)
        self.steps["plain"] += 1
        return super().schedule(throttle_prefills)

    def _undisturbed(self) -> bool:
        """Whether the next step only decodes: no request waits, none of those that wait could be admitted, or they gather."""
        running, waiting = self.get_request_counts()
        no_news = not waiting or running >= self.max_num_active_reqs or self._gathers()
        return self.usable and no_news and self.pause_state == PauseState.UNPAUSED

    def _gathers(self) -> bool:
        """Whether the burst goes on for a while although requests wait: those that come one by one are admitted together. An
        answer that is streamed does not wait for its first token."""
        if self.burst is None or not self.burst.goes_on or not all(map(self._is_wanted_whole, self.waiting)):
            return False
        now = time.monotonic()
        self.burst.gathers_until = self.burst.gathers_until or now + GATHERING_S
        return now < self.burst.gathers_until

    def _is_wanted_whole(self, request: Request) -> bool:
        sent = self.handed_out.get(request.request_id)
        return sent is not None and sent.together > 1

    def _awaits_last_tokens(self) -> bool:
        """Whether all that is left of a burst is to take tokens that will end its requests."""
        burst = self.burst
        if burst is None or burst.goes_on or not burst.lasts or not burst.alive.any():
            return False
        return bool(self.on_their_way) and self.on_their_way[-1].burst is burst

    def _awaits_followers(self) -> bool:
        """Whether nothing runs and the rest of a batch is to come: steps of few requests would only keep it waiting."""
        return bool(self.followers) and not self.running and time.monotonic() < self.waits_until

    def _begin(self) -> Burst | None:
        """A burst over all running requests, if there are any, with the blocks for it; None where one does not allow it."""
        if not self.running:
            return None
        running, steps = [], []
        for request in self.running:
            if request.request_id not in self.handed_out or not only_decodes(request):
                return None
            running.append(self.handed_out[request.request_id])
            if not self.use_v2_model_runner and request.request_id not in self.prev_step_scheduled_req_ids:
                return None  # the first model runner would need the request's tokens again
            steps.append(max(0, steps_left(request, self.max_model_len)))
        steps = self._affordable(steps)
        if not any(steps):
            return None
        new_blocks = [self._take_blocks(request, limit) for request, limit in zip(self.running, steps, strict=True)]
        return Burst(running, new_blocks, steps, self.max_model_len)

    def _affordable(self, steps: list[int]) -> list[int]:
        """As many of each running request's steps (in the order of `running`) as a burst may take blocks for.

        A burst's end costs some 10 ms for 358 requests on an H200, so it lasts until all of them must have ended. Where that
        took more than half of the free blocks, it lasts `LOOKAHEAD` steps, and where these are too many, half of them, and so
        on: a step that vLLM schedules costs the host 2 to 6 ms more.
        """
        held = [len(self.kv_cache_manager.get_blocks(request.request_id).blocks[0]) for request in self.running]
        computed = np.array([request.num_computed_tokens for request in self.running])
        free = self.kv_cache_manager.block_pool.get_num_free_blocks()

        def needed(limit: int) -> int:
            """Blocks of `block_size` tokens that the pool must give for so many steps of each request."""
            blocks = -(-(computed + np.minimum(steps, limit)) // self.block_size)
            return int(np.maximum(0, blocks - held).sum())

        limit = max(steps)
        if needed(limit) > free // 2:
            limit = min(limit, LOOKAHEAD)
        while limit and needed(limit) > free:
            limit //= 2
        return [min(wanted, limit) for wanted in steps]

    def _take_blocks(self, request: Request, steps: int) -> tuple[list[int], ...] | None:
        """Allocate the blocks that a request lacks for so many more tokens -> their ids, a list for each KV cache group (there
        is one); None where it has enough."""
        if steps == 0:
            return None
        blocks = self.kv_cache_manager.allocate_slots(request, 1, num_lookahead_tokens=steps - 1)
        assert blocks is not None, "the pool was counted before"
        ids: tuple[list[int], ...] | None = blocks.get_block_ids(allow_none=True)
        return ids

    def _burst_step(self, burst: Burst) -> SchedulerOutput:
        """One more token for every request of the burst that has steps left, in the form of `schedule`'s own result."""
        out = self._empty_step()
        out.scheduled_cached_reqs = burst.request_data()
        out.num_scheduled_tokens = burst.one_token_each
        out.total_num_scheduled_tokens = len(burst.ids)
        if not self.use_v2_model_runner:
            self.prev_step_scheduled_req_ids = set(burst.ids)
        self.on_their_way.append(Step(out, burst, burst.ids, burst.rows))
        burst.step_is_scheduled()
        return out

    def _empty_step(self) -> SchedulerOutput:
        """A step without tokens, which tells the model runner the ids of finished and preempted requests."""
        self.current_step += 1
        self.kv_cache_manager.new_step_starts()
        self._get_new_block_ids_to_zero()  # empties a list that is not read here
        out = SchedulerOutput.make_empty()
        out.num_common_prefix_blocks = [0]
        out.finished_req_ids, self.finished_req_ids = self.finished_req_ids, set()
        out.preempted_req_ids, self.reset_preempted_req_ids = self.reset_preempted_req_ids, set()
        return out

    # ---------------------------------------------------------------- after the model ran

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        step = None
        if self.on_their_way and self.on_their_way[0].output is scheduler_output:  # answers come in the order of schedule()
            step = self.on_their_way.popleft()
        if step is not None and step.burst is self.burst:
            return self._take_tokens(step, model_runner_output)
        return self._hand_out(super().update_from_output(scheduler_output, model_runner_output))

    def _take_tokens(self, step: Step, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        """Keep the token of each row of a step, and send what is due; vLLM's `check_stop` decides about requests that may be
        done."""
        burst, outputs, ended = step.burst, defaultdict(list), []
        rows, may_be_done = burst.take(step, model_runner_output)
        for request, may_end in zip(burst.settle(rows), may_be_done, strict=True):
            handed_out = self.handed_out[request.request_id]
            if may_end and check_stop(request, self.max_model_len):
                ended.append(request)
                del self.handed_out[request.request_id]
            elif not handed_out.is_due:
                continue
            outputs[request.client_index].append(handed_out.output())
        results = {client: EngineCoreOutputs(outputs=of_client) for client, of_client in outputs.items()}
        if ended:
            self.leaving += ended
            self.running = [request for request in self.running if not request.is_finished()]
            burst.drop_finished()
            next(iter(results.values())).scheduler_stats = self.make_stats()
        return results

    def _let_go(self) -> None:
        """Cache and free the blocks of finished requests: 130 us each, in which their clients have the answers already."""
        leaving, self.leaving = self.leaving, []
        for request in leaving:
            self._cache_blocks(request)
            self._free_request(request)

    def _hand_out(self, results: dict[int, EngineCoreOutputs]) -> dict[int, EngineCoreOutputs]:
        """Of vLLM's own outputs, hold back those that are neither the first nor the last of a request and not due, and add the
        tokens that were held back to the next."""
        for client, result in list(results.items()):
            kept = []
            for output in result.outputs:
                handed_out = self.handed_out.get(output.request_id)
                if handed_out is not None:
                    if output.finish_reason is None and output.prefill_stats is None and not handed_out.is_due:
                        continue
                    output.new_token_ids = handed_out.rest()
                if output.finish_reason is not None:
                    self.handed_out.pop(output.request_id, None)
                kept.append(output)
            result.outputs = kept
            if not kept and result.scheduler_stats is None and result.finished_requests is None:
                del results[client]
        if self.burst is not None:  # a step from before the burst may have ended one of its requests
            self.burst.drop_finished()
        return results

    def _settle(self, ids: set[str] | None = None) -> None:
        """End the burst: its requests look as if vLLM had scheduled them token by token. Where ids are given, only these
        requests do, and the burst goes on."""
        burst = self.burst
        if burst is None:
            return
        if ids is None:
            self.burst = None
        for request in burst.settle(burst.living(ids)):
            self._cache_blocks(request)

    def _cache_blocks(self, request: Request) -> None:
        request.update_block_hashes()
        self.kv_cache_manager.cache_blocks(request, request.num_computed_tokens - request.num_output_placeholders)

    def _warn_once(self, message: str) -> bool:
        """Log a message that was not logged before; whether it was not."""
        new = message not in self.logged
        if new:
            self.logged.add(message)
            log.warning(message)
        return new
