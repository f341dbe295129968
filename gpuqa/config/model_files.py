"""Which files of a model's folder are what: the one list for digests, and for the checks before an engine starts.

Patterns count from the folder. Of subfolders there is only what vLLM and transformers read for a model that writes text: code
of the checkpoint's own, and further chat templates.
"""

from __future__ import annotations

VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken", "tekken.json")  # at least one
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens_map*",
    "added_tokens*",
    "chat_template*",
    "additional_chat_templates/*",
)
TENSOR_FILES = ("*.safetensors", "*.bin", "*.pt")
SHARD_LIST = "*.index.json"
ADAPTER_CONFIG = "adapter_config.json"  # beside it lie the weights of a LoRA adapter
GENERATION_CONFIG = "generation_config.json"
WEIGHT_FILES = (  # with the architecture: its configuration, and code that a checkpoint brings along
    *TENSOR_FILES,
    SHARD_LIST,
    "config.json",
    "params.json",
    ADAPTER_CONFIG,
    GENERATION_CONFIG,
    "*quant*_config.json",
    "**/*.py",
)
