"""What keeps an engine, a request or a model runner from bursts: vLLM's own way is taken then, and the reason is said."""

from __future__ import annotations

from typing import Any

from gpuqa.engines import FOLLOWED, first_that_holds


def unsupported_engine(scheduler: Any) -> str | None:
    """Why this engine cannot burst; None if it can."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    groups = scheduler.kv_cache_config.kv_cache_groups
    unsupported = {
        "pipeline parallelism": scheduler.use_pp,
        "speculative decoding": scheduler.num_spec_tokens > 0,
        "LoRA": scheduler.lora_config is not None,
        "a KV or encoder connector": scheduler.connector is not None or scheduler.ec_connector is not None,
        "data parallelism (several engines behind one client)": scheduler.finished_req_ids_dict is not None,
        "KV cache events": scheduler.enable_kv_cache_events,
        "prefills held back for some steps": scheduler.scheduler_config.prefill_schedule_interval > 1,
        "a KV cache that is zeroed or freed later": scheduler.needs_kv_cache_zeroing or scheduler.defer_block_free,
        "attention that is not full": len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec),
        "context parallelism": scheduler.dcp_world_size > 1,
        "logits processors": bool(scheduler.vllm_config.model_config.logits_processors),
        "an encoder or a diffusion model": scheduler.is_encoder_decoder or scheduler.num_sampled_tokens_per_step != 1,
        "routed experts or sampling masks in the output": scheduler.aux_output_connector is not None
        or scheduler.return_sampling_mask,
    }
    return first_that_holds(unsupported)


def unsupported_request(request: Any) -> str | None:
    """Why this request needs vLLM's own scheduling; None if its steps can be part of a burst.

    Penalties, `min_tokens`, `bad_words`, `logit_bias` and `allowed_token_ids` are no reason: what they need beside the logits
    lies in the model runner's own state, which a step of a burst moves on as a step of vLLM's scheduler does. A thinking
    budget reads positions on the host, repetition detection looks at all tokens after each step, and `extra_args` is for
    code that is not known here.
    """
    params = request.sampling_params
    if params is None:
        return "pooling"
    unsupported = {
        "a prompt that comes in pieces": request.resumable,
        "a grammar": request.structured_output_request is not None,
        "logprobs": params.num_logprobs is not None or params.prompt_logprobs is not None,
        "a thinking budget": params.thinking_token_budget is not None,
        "extra_args": bool(set(params.extra_args or ()) - {FOLLOWED}),
        "repetition detection": params.repetition_detection is not None,
        "LoRA": request.lora_request is not None,
        "images or sound": bool(request.mm_features),
    }
    return first_that_holds(unsupported)


def unsupported_runner(runner: Any) -> str | None:
    """Why this runner cannot repeat steps; what keeps an engine from bursts is not asked for again."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    if not isinstance(runner, GPUModelRunner):
        return "vLLM drives this device by its first model runner, which cannot repeat a step"
    unsupported = {
        "prefill context parallelism": runner.pcp_manager is not None,
        "a sampler of another kind": type(runner.sampler) is not Sampler,
        "a trace that is replayed": runner.sampler.trace_replay_state is not None,
    }
    return first_that_holds(unsupported)
