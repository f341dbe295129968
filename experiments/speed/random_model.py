"""Write a model of Qwen3-0.6B's exact shape with random weights: a speed test needs no trained ones, and no network.

    python experiments/speed/random_model.py /tmp/bench_model          # 1.2 GB
    python experiments/speed/random_model.py /tmp/tiny_model --tiny    # two narrow layers, for a CPU

The tokenizer is a byte-level BPE trained on the project's own questions (Chinese and English), filled up so that every
id from 0 to 151668 has a text and the control tokens have Qwen3's ids: what the model says can be turned into text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SHAPE = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "initializer_range": 0.2,  # with 0.02 so narrow a model only repeats its last token, and a line break is no answer
}
PLAIN_TOKENS = 151643
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|control_{number}|>" for number in range(21)))
THINK_TOKENS = ("<think>", "</think>")  # 151667 and 151668, as in Qwen3
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CORPUS = Path(__file__).resolve().parents[2] / "gpuqa" / "embedded" / "questions"


def main() -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="two narrow layers instead of the real shape")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(arguments.folder)
    write_weights(arguments.folder, {**SHAPE, **TINY} if arguments.tiny else SHAPE)
    print(f"{arguments.folder}: {sum(file.stat().st_size for file in arguments.folder.iterdir()) / 2**20:.0f} MiB")


def write_tokenizer(folder: Path) -> None:
    """The tokenizer with its chat template, as files that `AutoTokenizer` reads."""
    from transformers import PreTrainedTokenizerFast

    inner = filled(trained(corpus()))
    inner.add_special_tokens(list(CONTROL_TOKENS))
    inner.add_tokens(list(THINK_TOKENS))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == SHAPE["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("</think>") == PLAIN_TOKENS + 25
    tokenizer.save_pretrained(folder)


def corpus() -> list[str]:
    """Every text of the project's question files."""
    entries = [entry for file in sorted(CORPUS.glob("*.json")) for entry in json.loads(file.read_text(encoding="utf-8"))]
    texts = [value for entry in entries for value in entry.values()]
    return [text for value in texts for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def trained(texts: list[str]) -> dict[str, Any]:
    """A small byte-level BPE, as its JSON; every byte has a token, so every text can be encoded."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    chat = ["system\n", "user\n", "assistant\n"] * 100  # one token each, as in Qwen3
    trainer = trainers.BpeTrainer(vocab_size=8000, show_progress=False, initial_alphabet=alphabet, special_tokens=[])
    tokenizer.train_from_iterator(texts + chat, trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def filled(content: dict[str, Any]) -> Any:
    """The tokenizer with made-up words up to Qwen3's first control token; no merge leads to them, decoding knows them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = content["model"]["vocab"]
    vocabulary.update({f"Ġmade{number}": number for number in range(len(vocabulary), PLAIN_TOKENS)})
    merges = [(left, right) for left, right in content["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_weights(folder: Path, shape: dict[str, Any]) -> None:
    """Random bf16 weights and the config, through transformers' own classes: names and files are what vLLM expects."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    model.to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
