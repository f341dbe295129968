"""A vLLM scheduler for answers that are wanted whole: `engine.scheduler=burst`.

vLLM's scheduler spends Python time on every request at every token; with a small model that costs more than the GPU needs
for the token. While all running requests do nothing but decode, and nobody who waits could be let in, this one takes the
KV blocks of all their tokens at once (of `LOOKAHEAD` each or fewer, where blocks are scarce) and runs a burst: a step is
a few array operations over all requests, and a request's own fields are brought up to date when it may be done, or when
the burst ends. Nothing is handed out between a request's first token and its last, and its blocks are cached and freed
when that has been handed out.

Requests that come as a batch say how many more are behind them (`gpuqa.engines.FOLLOWED`), and while nothing runs the first
ones wait for the rest: the thread that takes them in and the one that launches kernels share one interpreter, and a step
of four requests took longer than taking in the other 354.

`runner.py` does the same for what the model runner prepares for a step, where vLLM drives the device by its second one.

Whatever is not plain decoding of whole answers goes through vLLM's own code, which this class only calls: admission,
prefill, preemption, stopping (`check_stop`), freeing. Engines and requests that it does not know take that path from
beginning to end, and a log line says so once.

`scheduler.py` is imported by vLLM in the engine's process, by the name in `scheduler_cls`; it follows the scheduler of
vLLM 0.32 and 0.33 (vllm/v1/core/sched/scheduler.py, async_scheduler.py). `tests/test_burst.py` holds it against
vLLM's own token by token and block by block, `tests/test_burst_runner.py` the runner.
"""
