"""A stand-in for vLLM's model runner and engine loop, so that a scheduler can be driven through thousands of schedules.

The "model" is a hash: the next token depends on all tokens before it. The "KV cache" is a table of blocks that holds,
for every position, the hash of the text up to there; before a token is sampled, the whole text is read back through
the request's block table. A scheduler that hands a block to two requests, forgets one, or places a request at a wrong
position is caught in the step in which it happens. A fake, because the real runner cannot be driven to a preemption,
an abort and a reset between two given steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

BLOCK = 4
VOCABULARY = 30
MODEL = Path(__file__).resolve().parent.parent / "gpuqa" / "embedded" / "model"


def hashed(*parts: object) -> bytes:
    """A hash for vLLM's prefix cache that needs no seed."""
    import hashlib

    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def chain(tokens: list[int]) -> list[int]:
    """For every position a number that depends on all tokens up to it."""
    numbers, now = [], 17
    for token in tokens:
        now = (now * 1_000_003 + token * 7919 + 1) % 2_147_483_647
        numbers.append(now)
    return numbers


def next_token(tokens: list[int]) -> int:
    """What the "model" says after these tokens."""
    return chain(tokens)[-1] // 1000 % VOCABULARY


def answer(prompt: list[int], params: SamplingParams, max_model_len: int) -> tuple[list[int], str]:
    """The tokens and the finish reason that a request must get, whatever happened on the way."""
    tokens = list(prompt)
    stops = {params.eos_token_id, *(params.stop_token_ids or ()), *map(int, params.stop)}
    while True:
        tokens.append(next_token(tokens))
        if tokens[-1] in stops:
            return tokens[len(prompt) :], "stop"
        if len(tokens) >= max_model_len or len(tokens) - len(prompt) >= params.max_tokens:
            return tokens[len(prompt) :], "length"


def make_config(max_num_seqs: int, budget: int, max_model_len: int, policy: str) -> Any:
    """A configuration of the embedded model, as far as a scheduler reads it."""
    from vllm.engine.arg_utils import EngineArgs

    arguments: dict[str, Any] = {
        "model": str(MODEL),
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": budget,
        "block_size": 32,
        "enable_prefix_caching": True,
        "enforce_eager": True,
        "scheduling_policy": policy,
    }
    return EngineArgs(**arguments).create_engine_config()


def make_scheduler(cls: type[Any], config: Any, blocks: int, second_runner: bool) -> Any:
    """A scheduler over so many blocks of `BLOCK` tokens, that talks to vLLM's second model runner or to its first."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    config.cache_config.num_gpu_blocks, config.cache_config.block_size = blocks, BLOCK
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    layout = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    init_none_hash(hashed)
    scheduler = cls(
        vllm_config=config,
        kv_cache_config=layout,
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        hash_block_size=BLOCK,
        log_stats=True,
    )
    scheduler.use_v2_model_runner = second_runner  # its configuration would ask for Triton, which needs a GPU
    return scheduler


def make_request(name: str, prompt: list[int], params: SamplingParams, priority: int) -> Request:
    """A request as the engine core makes it."""
    hasher = get_request_block_hasher(BLOCK, hashed)
    return Request(name, prompt, params, None, arrival_time=float(name), block_hasher=hasher, priority=priority)


@dataclass
class State:
    """What the runner knows of one request."""

    prompt: int
    most: int  # tokens that the text may have at its end
    tokens: list[int]
    blocks: list[int]


@dataclass
class Runner:
    """Executes what a scheduler orders, and asserts that it makes sense."""

    max_model_len: int
    memory: dict[tuple[int, int], int] = field(default_factory=dict)  # (block, offset) -> chain number
    states: dict[str, State] = field(default_factory=dict)

    def execute(self, order: Any) -> ModelRunnerOutput:
        for request_id in order.finished_req_ids:
            self.states.pop(request_id, None)
        computed = self._update(order)
        ids, sampled = list(order.num_scheduled_tokens), []
        assert order.total_num_scheduled_tokens == sum(order.num_scheduled_tokens.values())
        for request_id in ids:
            sampled.append(self._run(self.states[request_id], computed[request_id], order.num_scheduled_tokens[request_id]))
        ids, sampled = ids[::-1], sampled[::-1]  # a real runner keeps an order of its own
        return ModelRunnerOutput(
            req_ids=ids, req_id_to_index={name: i for i, name in enumerate(ids)}, sampled_token_ids=sampled
        )

    def _update(self, order: Any) -> dict[str, int]:
        """Take in new requests and new blocks; the number of tokens that each scheduled request has computed."""
        computed = {}
        for new in order.scheduled_new_reqs:
            tokens = new.prefill_token_ids or new.prompt_token_ids
            prompt = len(new.prompt_token_ids)
            most = min(prompt + new.sampling_params.max_tokens, self.max_model_len)
            self.states[new.req_id] = State(prompt, most, list(tokens), list(new.block_ids[0]))
            computed[new.req_id] = new.num_computed_tokens
        cached = order.scheduled_cached_reqs
        for place, request_id in enumerate(cached.req_ids):
            state, blocks = self.states[request_id], cached.new_block_ids[place]
            if request_id in cached.resumed_req_ids:
                state.tokens, state.blocks = list(cached.all_token_ids[request_id]), list(blocks[0])
            elif blocks is not None:
                state.blocks += blocks[0]
            if request_id not in cached.resumed_req_ids:
                assert cached.num_output_tokens[place] == len(state.tokens) - state.prompt, request_id
            computed[request_id] = cached.num_computed_tokens[place]
        return computed

    def _run(self, state: State, start: int, count: int) -> list[int]:
        """Write the KV of `count` tokens from `start` on; sample if the text ends there."""
        numbers = chain(state.tokens)
        assert start + count < state.most, "a step whose token nobody may have"
        assert count > 0, "an empty step"
        assert start + count <= len(state.tokens), "a token that does not exist yet was scheduled"
        assert len(state.blocks) * BLOCK >= start + count, "a token without a block"
        for place in range(start, start + count):
            self.memory[state.blocks[place // BLOCK], place % BLOCK] = numbers[place]
        if start + count < len(state.tokens):
            return []
        read = [self.memory.get((state.blocks[place // BLOCK], place % BLOCK)) for place in range(start + count)]
        assert read == numbers, "the KV cache holds another text"
        state.tokens.append(next_token(state.tokens))
        return [state.tokens[-1]]


@dataclass
class Client:
    """What came back. The text of a token is its number; a stop string is one such text, looked for here as vLLM does it."""

    stop: dict[str, list[str]] = field(default_factory=dict)  # request -> its stop strings
    to_abort: list[str] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)  # by a stop string
    surplus: int = 0  # the most tokens that came of an answer behind its stop string
    pieces: dict[str, list[list[int]]] = field(default_factory=dict)  # of each message
    tokens: dict[str, list[int]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    messages: int = 0

    def receive(self, results: dict[int, Any]) -> None:
        for result in results.values():
            for output in result.outputs:
                if output.request_id in self.stopped:
                    continue
                assert output.request_id not in self.reasons, "an output after the last"
                self.messages += 1
                self.pieces.setdefault(output.request_id, []).append(output.new_token_ids)
                self.tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
                if output.finish_reason is not None:
                    self.reasons[output.request_id] = str(output.finish_reason)
                self.look_for_stop_strings(output.request_id)

    def look_for_stop_strings(self, name: str) -> None:
        """Cut the answer behind the first one."""
        tokens = self.tokens[name]
        places = [place for place, token in enumerate(tokens) if str(token) in self.stop.get(name, ())]
        if places:
            self.surplus = max(self.surplus, len(tokens) - places[0] - 1)
            del tokens[places[0] + 1 :]
            if name not in self.reasons:
                self.to_abort.append(name)
            self.reasons[name] = "stop"
            self.stopped.add(name)


@dataclass
class Engine:
    """The loop of vLLM's engine core: `depth` orders are out at once (two is what vLLM calls asynchronous scheduling)."""

    scheduler: Any
    depth: int
    runner: Runner
    client: Client = field(default_factory=Client)
    out: deque[tuple[Any, ModelRunnerOutput]] = field(default_factory=deque)

    def step(self, abort: list[str]) -> None:
        """Order one step if there is room, take the oldest answer in if there is none."""
        if self.scheduler.has_requests():
            order = self.scheduler.schedule()
            self.out.append((order, self.runner.execute(order)))
            if len(self.out) < self.depth and order.total_num_scheduled_tokens:
                return
        if abort := [*abort, *self.client.to_abort]:
            self.scheduler.finish_requests(abort, RequestStatus.FINISHED_ABORTED)
            self.client.to_abort.clear()
        if self.out:
            self.client.receive(self.scheduler.update_from_output(*self.out.popleft()))

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self.out or self.client.to_abort) or self.scheduler.has_requests()
