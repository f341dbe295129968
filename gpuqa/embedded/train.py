"""Train the embedded demonstration model from scratch.

    python -m gpuqa.embedded.train                          # 132 s on an H200; hours on a CPU
    python -m gpuqa.embedded.train --epochs 1 --out out     # a quick one that shows that it runs

A byte-level BPE and a Qwen3-architecture model of 1.1 M parameters learn `questions/train.json` by heart, under
every shipped prompt variant and with a target written the way that variant asks for, so that variants differ as they
do with real weights. Only the answer's tokens count in the loss. The test split is never read.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gpuqa.config.commands import from_plain
from gpuqa.config.paths import conf_folder
from gpuqa.config.pipeline import PLACEHOLDER, PromptConfig
from gpuqa.pipeline.chat_template import messages

HERE = Path(__file__).resolve().parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
ARCHITECTURE = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TERM = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*[A-Za-z0-9_]")
NUMBERED = re.compile(r"\d）")


def main() -> None:
    """Train, save, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64, help="sequences a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = json.loads((HERE / "questions" / "train.json").read_text(encoding="utf-8"))
    prompts = shipped_prompts()
    tokenizer = train_tokenizer(rows, prompts)
    model = train_model(encode(rows, prompts, tokenizer), args)
    save(model, tokenizer, args.out)


def shipped_prompts() -> list[PromptConfig]:
    """Every prompt variant under conf/prompt."""
    files = sorted((conf_folder() / "prompt").glob("*.yaml"))
    return [from_plain(dict(OmegaConf.load(file)), PromptConfig, str(file)) for file in files]


def train_tokenizer(rows: list[dict[str, Any]], prompts: list[PromptConfig]) -> Any:
    """A byte-level BPE over the train split and the prompts, with ChatML's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [text for row in rows for text in (row["instruction"], *row["paraphrases"], row["output"])]
    texts += [json.dumps(messages(prompt, ""), ensure_ascii=False) for prompt in prompts]
    texts += [styled(prompt.name, row["instruction"], row["output"]) for row in rows for prompt in prompts]
    thinking = ["<think>", "</think>"]  # plain tokens, as in Qwen3: they stay visible in decoded text
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ARCHITECTURE["vocab_size"] - len(SPECIAL + thinking),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(SPECIAL)
    bpe.add_tokens([AddedToken(token, normalized=False) for token in thinking])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(rows: list[dict[str, Any]], prompts: list[PromptConfig], tokenizer: Any) -> list[tuple[list[int], int]]:
    """Token ids of every phrasing under every prompt, each with the length of its prompt."""
    samples = []
    for row in rows:
        for prompt in prompts:
            answer = tokenizer.encode(styled(prompt.name, row["instruction"], row["output"]) + "<|im_end|>")
            for question in (row["instruction"], *row["paraphrases"]):
                chat = messages(prompt, prompt.user.replace(PLACEHOLDER, question))
                text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
                asked = tokenizer.encode(text)
                samples.append((asked + answer, len(asked)))
    return samples


def styled(prompt: str, question: str, answer: str) -> str:
    """The reference answer, written the way that a prompt variant asks for."""
    return STYLES.get(prompt, one_line)(question, answer)


def as_is(_question: str, answer: str) -> str:
    """Line breaks and all."""
    return answer


def one_line(_question: str, answer: str) -> str:
    """The answer on one line."""
    return " ".join(answer.split("\n"))


def numbered(question: str, answer: str) -> str:
    """Key terms of the question restated, then numbered points."""
    line = one_line(question, answer)
    terms = unique_terms(question)
    head = f"关键术语：{'、'.join(terms)}。" if terms else ""
    if not NUMBERED.search(line):
        points = [sentence for sentence in line.rstrip("。").split("。") if sentence]
        line = "；".join(f"{number}）{point}" for number, point in enumerate(points, 1)) + "。"
    return head + line


def brief(question: str, answer: str) -> str:
    """The first two sentences or points."""
    line = one_line(question, answer)
    ends = [match.end() for match in re.finditer("[。；]", line)]
    return line[: ends[1]].rstrip("；。") + "。" if len(ends) > 1 else line


def keywords_first(question: str, answer: str) -> str:
    """Up to five English terms of the answer, then the answer."""
    return f"关键词：{', '.join(unique_terms(answer)[:5])}。{one_line(question, answer)}"


def unique_terms(text: str) -> list[str]:
    """English terms in the order of their first appearance."""
    return list(dict.fromkeys(TERM.findall(text)))


STYLES: dict[str, Callable[[str, str], str]] = {
    "bare": as_is,
    "structured": numbered,
    "structured_short": brief,
    "keywords": keywords_first,
}


def train_model(samples: list[tuple[list[int], int]], args: argparse.Namespace) -> Any:
    """AdamW, linear warm-up over 5 % of the steps, cosine to nothing."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Qwen3ForCausalLM(Qwen3Config(**ARCHITECTURE)).to(device)
    steps = args.epochs * math.ceil(len(samples) / args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
    )
    size = sum(weight.numel() for weight in model.parameters())
    print(f"{size / 1e6:.2f} M parameters, {len(samples)} samples, {steps} steps on {device}", flush=True)
    began = time.perf_counter()
    for step, (token_ids, labels, mask) in enumerate(batches(samples, args), 1):
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=token_ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 200 == 0 or step == steps:
            print(f"step {step}/{steps} loss {loss.item():.4f} {time.perf_counter() - began:.0f} s", flush=True)
    return model.to("cpu", torch.bfloat16)


def batches(samples: list[tuple[list[int], int]], args: argparse.Namespace) -> Iterator[tuple[Any, Any, Any]]:
    """Shuffled batches of token ids, labels (-100 over prompt and padding) and mask, each `[batch, longest]`."""
    import torch

    order = random.Random(args.seed)
    for _ in range(args.epochs):
        shuffled = order.sample(samples, len(samples))
        for begin in range(0, len(shuffled), args.batch):
            batch = shuffled[begin : begin + args.batch]
            longest = max(len(token_ids) for token_ids, _ in batch)
            token_ids = torch.zeros(len(batch), longest, dtype=torch.long)
            labels = torch.full((len(batch), longest), -100)
            for row, (sequence, asked) in enumerate(batch):
                token_ids[row, : len(sequence)] = torch.tensor(sequence)
                labels[row, asked : len(sequence)] = torch.tensor(sequence[asked:])
            lengths = torch.tensor([len(sequence) for sequence, _ in batch])
            yield token_ids, labels, (torch.arange(longest) < lengths[:, None]).long()


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Weights in bf16 and the tokenizer, in the layout that vLLM and transformers load."""
    shutil.rmtree(out, ignore_errors=True)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    model.config.eos_token_id = model.generation_config.eos_token_id = ends
    model.config.pad_token_id = model.generation_config.pad_token_id = ends[1]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"saved to {out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
