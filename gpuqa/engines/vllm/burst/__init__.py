"""A vLLM scheduler whose steps cost no Python time for each request: `engine.scheduler=burst`.

vLLM's scheduler spends Python time on every request at every token; with a small model that costs more than the GPU needs
for the token. While all running requests do nothing but decode, and no waiting request could be admitted, this one takes the
KV blocks of all their tokens at once (of `LOOKAHEAD` each or fewer, where blocks are scarce) and runs a burst: a step is
a few array operations over all requests, and a request's own fields are brought up to date when it may be done, when tokens of
it are sent, or when the burst ends.

A request that comes during a burst ends it, but not at once: for `GATHERING_S` it waits for others, unless its answer is
streamed.

How many tokens are sent together (`handed_out.py`): of a whole answer the first one, for its time, and then all others, 16
where it has stop strings; of a streamed one each by itself, or as many as vLLM's `stream_interval` says. A request that is
given up leaves the burst alone. A request's blocks are cached and freed after its last token was sent.

Each request of a batch carries the number of those behind it (`gpuqa.engines.FOLLOWED`), and while no request runs the first
ones wait for the rest: the thread that receives requests and the one that launches kernels share one interpreter, and a step
of four requests took longer than receiving the other 354.

`runner.py` does the same for what the model runner prepares for a step, where vLLM drives the device by its second one.

Whatever is not plain decoding goes through vLLM's own code, which this class only calls: admission, prefill, preemption,
stopping (`check_stop`), freeing. Engines and requests that it does not know take that path from
beginning to end; a log line and `Engine.overrides` say so.

What a burst hands to the model runner, for S requests: `num_scheduled_tokens` maps S request ids to 1, `num_computed_tokens`
and `num_output_tokens` are lists of S integers in the same order, and the ids of new blocks come with the first step only. What
comes back is one sampled token id (int) for each of the S requests. Arrays over requests are NumPy's, int64, on the host.

`scheduler.py` is imported by vLLM in the engine's process, by the name in `scheduler_cls`; it follows the scheduler of
vLLM 0.32 and 0.33 (vllm/v1/core/sched/scheduler.py, async_scheduler.py). `tests/test_burst.py` holds it against vLLM's own
token by token and block by block, `tests/test_burst_runner.py` the runner, and `tests/test_gpu.py` both on a real GPU.

What 0.33 added changes no step of a burst. Its local interval between prefills (`local_prefill_interval`,
`num_executed_steps`) is above 1 only where `prefill_schedule_interval` is, which turns bursts off. `skip_drafts`,
`defer_async_loads` and hashes ahead of a block belong to speculative decoding and KV connectors, which turn them off, too.
`encoder_input_updates` is empty without images and sound. Both versions cache a running request's blocks up to the last token
whose keys and values are computed.
"""
