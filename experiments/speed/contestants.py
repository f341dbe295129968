"""What is measured, one class each; every contestant is a process of its own that `yardstick.py` starts.

    python experiments/speed/contestants.py NAME TASK     # TASK: the fields of `Task` as JSON

It says {"start_s", "addresses"} when its engine has started and then obeys lines on stdin:
{"measure": {"how", "prefix", "questions"}} -> {"seconds", "output_tokens"} and {"profile": true | false} -> {}.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from typing import Any

import uvicorn
from client import answers
from contestant import HOST, Batch, Contestant, Reply, Task, listen, obey
from ours import Ours, OursDefault, OursFloat8, OursOwnAttention, OursPrepared
from processes import take_stdout


def main() -> None:
    """Be the contestant that the command line names."""
    replies = take_stdout()
    kind, task = CONTESTANTS[sys.argv[1]], Task(**json.loads(sys.argv[2]))
    factory = uvicorn.Config(app="").get_loop_factory() if kind.serves else None  # a server's loop: uvloop where there is one

    def say(reply: Reply) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(obey(kind(task), say))


class Offline(Contestant):
    """The offline `vllm.LLM` as it comes."""

    async def start(self) -> Reply:
        from vllm import LLM, SamplingParams

        self.llm: Any = LLM(model=self.task.model, **self.task.args)
        self.tokenizer = self.llm.get_tokenizer()
        self.params = SamplingParams(**self.task.sampling)
        return {}

    async def measure(self, batch: Batch) -> Reply:
        ids = self.chat_ids(self.tokenizer, batch) if batch.how == "ids" else []
        began = time.perf_counter()
        prompts: list[Any] = [{"prompt_token_ids": one} for one in ids] or self.chat_texts(self.tokenizer, batch)
        outputs = self.llm.generate(prompts, self.params, use_tqdm=False)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "output_tokens": sum(len(output.outputs[0].token_ids) for output in outputs)}

    async def profile(self, on: bool) -> Reply:
        self.llm.start_profile() if on else self.llm.stop_profile()
        return {}


class DefaultAsync(Contestant):
    """`AsyncLLM` as it comes, in asyncio's own loop: one `generate()` a question, final outputs, text made by vLLM."""

    async def start(self) -> Reply:
        from transformers import AutoTokenizer
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM

        self.llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(model=self.task.model, **self.task.args))
        self.tokenizer = AutoTokenizer.from_pretrained(self.task.model)
        self.params = SamplingParams(**self.task.sampling, output_kind=RequestOutputKind.FINAL_ONLY)
        self.asked = 0
        return {}

    async def measure(self, batch: Batch) -> Reply:
        ids = self.chat_ids(self.tokenizer, batch) if batch.how == "ids" else []
        began = time.perf_counter()
        ids = ids or self.chat_ids(self.tokenizer, batch)
        tokens = await asyncio.gather(*(self._tokens_of(one) for one in ids))
        return {"seconds": time.perf_counter() - began, "output_tokens": sum(tokens)}

    async def _tokens_of(self, ids: list[int]) -> int:
        self.asked += 1
        prompt = {"type": "token", "prompt_token_ids": ids}
        async for output in self.llm.generate(prompt, self.params, request_id=str(self.asked)):
            last = output
        return len(last.outputs[0].token_ids)


class OpenAiServer(Contestant):
    """vLLM's own server, a process below this one; both prefixes at one address, the system text comes with a request."""

    async def start(self) -> Reply:
        with socket.create_server((HOST, 0)) as free:
            port = int(free.getsockname()[1])
        module = "vllm.entrypoints.openai.api_server"
        fixed = ["--host", HOST, "--port", str(port), "--served-model-name", "speed", "--disable-uvicorn-access-log"]
        command = [sys.executable, "-m", module, "--model", self.task.model, *fixed, *flags(self.task.args)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while not await asyncio.to_thread(answers, port, "/health"):
            if server.poll() is not None:
                raise RuntimeError(f"vLLM's server ended with {server.returncode}; see the log")
            await asyncio.sleep(0.5)
        self.addresses = dict.fromkeys(self.task.systems, (port, "/v1/chat/completions"))
        return {}


def flags(args: dict[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line wants them."""
    said: list[str] = []
    for key, value in args.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            said.append(f"--{name}" if value else f"--no-{name}")
        else:
            said += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return said


class Seed(Contestant):
    """The course's seed service: one engine, and for each prefix an app with its system text."""

    serves = True

    async def start(self) -> Reply:
        import seed_server

        llm = seed_server.load(self.task.model, self.task.args)
        sampling = {"max_tokens": self.task.tokens, "ignore_eos": True}
        for prefix, system in self.task.systems.items():
            self.addresses[prefix] = (await listen(seed_server.create_app(llm, system, sampling)), "/predict")
        return {}


class Transformers(Contestant):
    """transformers' `generate`, left-padded batches, from text to text: the floor."""

    async def start(self) -> Reply:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.task.model, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(self.task.model, dtype=self.task.args["dtype"])
        self.model: Any = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.model.generation_config.eos_token_id = None
        return {}

    async def measure(self, batch: Batch) -> Reply:
        import torch

        began, tokens = time.perf_counter(), 0
        texts = self.chat_texts(self.tokenizer, batch)
        for first in range(0, len(texts), self.task.batch_size):
            some = self.tokenizer(texts[first : first + self.task.batch_size], return_tensors="pt", padding=True)
            some = some.to(self.model.device)
            exactly = {"max_new_tokens": self.task.tokens, "min_new_tokens": self.task.tokens, "do_sample": False}
            with torch.inference_mode():
                output = self.model.generate(**some, **exactly, pad_token_id=self.tokenizer.pad_token_id)
            answers = output[:, some["input_ids"].shape[1] :]
            self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            tokens += answers.numel()
        return {"seconds": time.perf_counter() - began, "output_tokens": tokens}


CONTESTANTS: dict[str, type[Contestant]] = {
    "offline": Offline,
    "async": DefaultAsync,
    "ours": Ours,
    "openai": OpenAiServer,
    "seed": Seed,
    "transformers": Transformers,
    "ours_default": OursDefault,
    "ours_own_attention": OursOwnAttention,
    "ours_prepared": OursPrepared,
    "ours_float8": OursFloat8,
}


if __name__ == "__main__":
    main()
