"""vLLM's second model runner, told that a step is the one before once more; see the package.

Between two steps of a burst nothing changes but the last token of every request. vLLM's runner works out again from
Python objects which requests are in the batch, copies that to the GPU and launches the sampler's kernels one by one: some
2 ms a step on the host, as much as the GPU needs for 64 answers of a 0.6B model. `RepeatedSteps` keeps what it prepared for
the first step of a burst, lets the GPU move positions and tokens on by vLLM's own kernels, and replays the sampler's kernels
as one CUDA graph.

It stands before vLLM's class in the runner's bases and overrides single steps of `execute_model`, which stays vLLM's own. The
scheduler says that a step repeats by handing the very same `num_scheduled_tokens` on, so an executor that copies its
messages (tensor parallelism) never repeats one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from vllm.logger import init_logger

from gpuqa.engines.vllm.burst.unsupported import unsupported_runner
from gpuqa.engines.vllm.override_reports import State, report
from gpuqa.engines.vllm.overrides import PREPARED_IN_FULL

log = init_logger(__name__)


class WorkerExtension:
    """Gives vLLM's worker a method that its client may call (`worker_extension_cls`)."""

    model_runner: Any

    def repeat_steps(self) -> None:
        """Let the model runner repeat steps, if it can."""
        if reason := unsupported_runner(self.model_runner):
            log.info("%s: %s", PREPARED_IN_FULL, reason)
            report("scheduler", State.partly, f"{PREPARED_IN_FULL}: {reason}")
            return
        kind = type(self.model_runner)
        self.model_runner.__class__ = type(f"Repeating{kind.__name__}", (RepeatedSteps, kind), {})


class RepeatedSteps:
    """Mixed into vLLM's GPUModelRunner; the names of its methods are vLLM's (0.32 and 0.33)."""

    scheduled: dict[str, int] | None = None  # tokens by request, of the step before
    repeats = False
    gathered: Any = None  # of the first step of a burst: what vLLM read from its host's tables, and the batch it made
    batch: Any = None
    sampling: SamplingGraph | None = None
    can_record = True

    # vLLM's own attributes
    device: torch.device
    req_states: Any
    input_buffers: Any
    model_state: Any
    sampler: Any

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self.repeats = scheduler_output.num_scheduled_tokens is self.scheduled and not changes(scheduler_output)
        self.scheduled = scheduler_output.num_scheduled_tokens
        return super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]

    def add_requests(self, scheduler_output: Any) -> None:
        if not self.repeats:
            super().add_requests(scheduler_output)  # type: ignore[misc]

    def update_requests(self, scheduler_output: Any) -> None:
        if not self.repeats:  # the host's tables fall behind meanwhile; the next other step brings them up to date here
            super().update_requests(scheduler_output)  # type: ignore[misc]

    # A batch of B requests, one token each. On the GPU: idx_mapping int64 [B], a request's row in vLLM's tables of requests;
    # query_start_loc int32 [B + 1]; seq_lens int32 [B], padded for CUDA graphs; positions int64 [B] and input_ids int32 [B],
    # views of the buffers that the captured graphs read. On the host: num_computed_tokens_np int32 [B],
    # seq_lens_cpu_upper_bound int32 [B, padded].

    def gather_batch_req_state(self, *about: Any) -> Any:
        if not self.repeats:
            self.gathered = super().gather_batch_req_state(*about)  # type: ignore[misc]
        return self.gathered

    def prepare_inputs(self, scheduler_output: Any, *about: Any) -> Any:
        if not self.repeats:
            self.batch = super().prepare_inputs(scheduler_output, *about)  # type: ignore[misc]
            if self.sampling is not None:
                self.sampling.forget()
        else:
            self._move_on(self.batch)
        return self.batch

    def _move_on(self, batch: Any) -> None:
        """Move the B requests of the batch on by one token each, in place, by the kernels that `prepare_inputs` calls last.

        `states.num_computed_tokens.gpu` (int32, a row for each request that the runner knows) was moved on by the step before,
        and `states.last_sampled_tokens` [rows, 1] holds its tokens, so both are read from the GPU and no token is copied here.
        """
        from vllm.v1.worker.gpu.input_batch import combine_sampled_and_draft_tokens, prepare_pos_seq_lens

        states, buffers = self.req_states, self.input_buffers
        batch.num_computed_tokens_np += 1
        batch.seq_lens_cpu_upper_bound[: batch.num_reqs] += 1
        computed = states.num_computed_tokens.gpu
        prepare_pos_seq_lens(batch.idx_mapping, batch.query_start_loc, computed, buffers.positions, buffers.seq_lens)
        combine_sampled_and_draft_tokens(
            buffers.input_ids,
            batch.idx_mapping,
            states.last_sampled_tokens,
            batch.query_start_loc,
            batch.seq_lens,
            states.prefill_len.gpu,
            states.draft_tokens,
            batch.cu_num_logits,
            batch.num_reqs,
            self.model_state.num_new_sampled_tokens_per_step,
        )

    # hidden_states: [B, hidden size] in the model's dtype, always the same memory where the model runs as a CUDA graph.
    def sample(self, hidden_states: torch.Tensor, input_batch: Any, grammar_output: Any) -> tuple[Any, Any, Any]:
        own = super().sample  # type: ignore[misc]
        if not (self.repeats and self.can_record and grammar_output is None and self._draws_by_kernels(input_batch)):
            result: tuple[Any, Any, Any] = own(hidden_states, input_batch, grammar_output)
            return result
        self.sampling = self.sampling or SamplingGraph()
        try:
            return self.sampling.sampled_from(hidden_states, lambda: own(hidden_states, input_batch, None))
        except RuntimeError as error:  # out of memory, or a kernel that cannot be recorded: launch them one by one
            self.can_record, self.sampling = False, None
            log.warning("the sampler's kernels are not recorded as a CUDA graph: %s", error)
            report("scheduler", State.partly, f"the sampler's kernels are not recorded as a CUDA graph: {first_line(error)}")
            return self.sample(hidden_states, input_batch, None)

    def _draws_by_kernels(self, batch: Any) -> bool:
        """Whether every launch would be the same at the next step; FlashInfer takes random numbers from the host.

        The end of `min_tokens` and bad words are no exception: their kernels read tokens and positions on the GPU, where
        `_move_on` moves them on outside of the graph. Penalties should be none either, but their answers were not shown to be
        vLLM's own on a card (experiments/LOG.md), so their kernels are launched one by one.
        """
        states, places = self.sampler.sampling_states, batch.idx_mapping_np
        by_kernels = not self.sampler.use_flashinfer or states.any_greedy(places) or states.any_explicit_seed(places)
        penalized = self.sampler.penalties_state.use_penalty[places].any()
        return bool(self.device.type == "cuda" and by_kernels and not penalized)


def changes(scheduler_output: Any) -> bool:
    """Whether requests came or went; a burst has all its blocks from its first step on."""
    return bool(scheduler_output.scheduled_new_reqs or scheduler_output.finished_req_ids or scheduler_output.preempted_req_ids)


def first_line(error: BaseException) -> str:
    """Of a message: CUDA's goes on with advice over many lines."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class SamplingGraph:
    """The kernels from the hidden states [B, hidden size] to the sampled token ids [B, 1], as one launch.

    A recording reads the hidden states at one address and B is part of it, so it is made anew for another batch.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # always the same: cuBLAS takes memory for every stream that it works on
        self.graph: Any = None  # the last one; as long as it is there, the next one takes its memory over
        self.address = 0  # of the hidden states that it reads
        self.sampled: Any = None  # what vLLM's `sample` returned; its tensors are written anew by every replay

    def forget(self) -> None:
        """The batch is another one."""
        self.sampled = None

    def sampled_from(self, hidden_states: torch.Tensor, sample: Callable[[], tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
        """What `sample` would return; the tokens as a copy, for vLLM fetches them while the next step may write over them.

        Raises:
            RuntimeError: something in `sample` cannot be recorded, or no memory is left.
        """
        if self.sampled is None or self.address != hidden_states.data_ptr():
            self.sampled = None
            self._record(sample)
            self.address = hidden_states.data_ptr()
        self.graph.replay()
        output, sampled, rejected = self.sampled
        return replace(output, sampled_token_ids=output.sampled_token_ids.clone()), sampled, rejected

    def _record(self, sample: Callable[[], tuple[Any, Any, Any]]) -> None:
        """Without `torch.cuda.graph`, which would wait for the GPU and give all cached memory back first."""
        graph, main = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            graph.capture_begin(self.graph and self.graph.pool(), capture_error_mode="thread_local")
            try:
                self.sampled = sample()
            finally:
                graph.capture_end()
        main.wait_stream(self.stream)
        self.graph = graph
