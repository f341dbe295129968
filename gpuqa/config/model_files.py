"""Which files of a model's folder are what: the one list for digests, and for the check whether a tokenizer is there."""

from __future__ import annotations

VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # a tokenizer has at least one of these
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens_map*",
    "added_tokens*",
    "chat_template*",
)
WEIGHT_FILES = (  # with the architecture: its configuration, and code that a checkpoint brings along
    "*.safetensors",
    "*.bin",
    "*.pt",
    "config.json",
    "generation_config.json",
    "quant*_config.json",
    "*.index.json",
    "*.py",
)
