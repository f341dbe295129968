#!/usr/bin/env bash
# Every number format on a machine with two GPUs: the speed of Qwen3-0.6B's shape, and what the embedded model's answers lose.
#
#     bash experiments/h200/formats.sh OUT first|second|backends|scores|file_scores     # four minutes each at most
#
# first: formats that vLLM makes of the weights itself (GPU 0), formats of the KV cache (GPU 1). second: checkpoints that were
# quantized beforehand and three pairs (GPU 0), the other formats of the KV cache and a pair (GPU 1). backends: attention that is named, with
# formats that it would not get by itself (GPU 1). OUT gets a folder for each.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "$1") part=$2
model=${MODEL:-/tmp/random_model} made=${MADE:-/tmp/random_checkpoints} small=${SMALL:-/tmp/embedded_checkpoints}
export PYTHONPATH=$PWD:${PYTHONPATH:-}
[ -e "$model/config.json" ] || python3 experiments/speed/random_model.py "$model"
[ -e "$made" ] || CUDA_VISIBLE_DEVICES= python3 experiments/formats/checkpoints.py "$model" "$made"
[ -e "$small" ] || CUDA_VISIBLE_DEVICES= python3 experiments/formats/checkpoints.py gpuqa/embedded/model "$small"
mkdir -p "$out"
plain=(--each "none=quantization=none" --each "vllm_attention=quantization=none engine.attention=default")
speeds() { CUDA_VISIBLE_DEVICES=$1 python3 experiments/formats/speeds.py out="$out/$2" model="$model" --starts "${STARTS:-3}" --batches 3 --kv-gib 10.5 --budget "${BUDGET:-400}" "${@:3}" > "$out/$2.md" 2>&1; }
scores() { CUDA_VISIBLE_DEVICES=$1 python3 -m gpuqa.sweep experiment=formats study.root="$out" study.name="$2" engine=vllm_quick_start \
  engine.args.gpu_memory_utilization=0.2 "${@:3}" > "$out/$2.log" 2>&1; }
case $part in
first)
  weights=(); for name in fp8 fp8_per_block fp8_per_channel mxfp8 int8_per_channel_weight_only nvfp4_per_token; do weights+=(--each "$name=quantization=$name"); done
  caches=(); for name in fp8 fp8_e5m2 fp8_per_token_head int8_per_token_head int4_per_token_head; do caches+=(--each "kv_$name=+engine.args.kv_cache_dtype=$name"); done
  speeds 0 weights "${plain[@]:0:2}" "${weights[@]}" & speeds 1 caches "${plain[@]}" "${caches[@]}" ;;
second)
  files=(); for name in w8a8_int8 w8a8_fp8 gptq_int4 awq_int4; do files+=(--each "$name=model.path=$made/$name"); done
  pairs=(--each "fp8+kv_fp8=quantization=fp8 +engine.args.kv_cache_dtype=fp8"
    --each "fp8_per_channel+kv_fp8=quantization=fp8_per_channel +engine.args.kv_cache_dtype=fp8"
    --each "w8a8_fp8+kv_fp8=model.path=$made/w8a8_fp8 +engine.args.kv_cache_dtype=fp8")
  caches=(); for name in nvfp4 turboquant_k8v4 turboquant_4bit_nc turboquant_k3v4_nc turboquant_3bit_nc ultraquant_4bit; do caches+=(--each "kv_$name=+engine.args.kv_cache_dtype=$name"); done
  speeds 0 files "${plain[@]:0:2}" "${files[@]}" "${pairs[@]}" &
  speeds 1 more_caches "${plain[@]:0:2}" "${caches[@]}" --each "fp8_per_block+kv_int8=quantization=fp8_per_block +engine.args.kv_cache_dtype=int8_per_token_head" ;;
backends)
  named=(); for pair in TRITON_ATTN:auto TRITON_ATTN:fp8 TRITON_ATTN:fp8_e5m2 FLASH_ATTN:fp8_e5m2 FLASH_ATTN:int8_per_token_head FLASHINFER:auto FLASHINFER:fp8; do
    named+=(--each "$pair=engine.attention=default +engine.args.attention_backend=${pair%:*} +engine.args.kv_cache_dtype=${pair#*:}")
  done
  STARTS=1 speeds 1 backends "${plain[@]}" "${named[@]}" ;;
scores)
  scores 0 scores_weights +engine.args.kv_cache_dtype=auto &
  scores 1 scores_caches quantization=none ;;
file_scores)
  scores 0 scores_files quantization=none +engine.args.kv_cache_dtype=auto \
    "model.path=gpuqa/embedded/model,$small/w8a8_int8,$small/w8a8_fp8,$small/gptq_int4,$small/awq_int4" ;;
*) echo "first, second, scores or file_scores, not $part" >&2; exit 2 ;;
esac
wait
cat "$out"/*.md "$out"/*.log 2>/dev/null | grep -v "^$" | tail -n "${LINES_SHOWN:-80}"
