"""The course's seed service, written from its description: what most submissions started from.

    python experiments/speed/seed_server.py --model /tmp/bench_model [--fp8] [--no-prefix-caching] [--port 8000]

One FastAPI app over the offline `vllm.LLM`. The handler is a coroutine that calls `LLM.generate` directly, so while a
batch is answered nothing else is, GET / included, and single questions are answered one after the other. (A plain
function would run in threads, and `LLM` must not be called from two at once.)
"""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class PredictRequest(BaseModel):
    """One question or all of them."""

    prompt: str | list[str]


class PredictResponse(BaseModel):
    """Answers in the order of the questions, always a list."""

    response: list[str]


def main() -> None:
    """Start the engine, then listen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--system", default="You are a helpful assistant.")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--no-prefix-caching", action="store_true")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    llm = load(arguments.model, seed_settings(arguments.fp8, not arguments.no_prefix_caching))
    uvicorn.run(create_app(llm, arguments.system, {"max_tokens": arguments.max_tokens}), port=arguments.port)


def seed_settings(fp8: bool, prefix_caching: bool) -> dict[str, Any]:
    """Engine arguments for the seed's two switches."""
    return {"enable_prefix_caching": prefix_caching, **({"quantization": "fp8"} if fp8 else {})}


def load(model: str, args: dict[str, Any]) -> Any:
    """The engine; minutes with a cold compile cache."""
    from vllm import LLM

    return LLM(model=model, **args)


def create_app(llm: Any, system: str, sampling: dict[str, Any]) -> FastAPI:
    """The application around an engine that is already there."""
    from vllm import SamplingParams

    app = FastAPI()
    tokenizer = llm.get_tokenizer()
    params = SamplingParams(temperature=0.0, **sampling)

    @app.get("/")
    async def status() -> dict[str, str]:
        """Ready as soon as it listens."""
        return {"status": "batch"}

    @app.post("/predict")
    async def predict(request: PredictRequest) -> PredictResponse:
        """Answer the whole list in one call of the engine."""
        questions = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "system", "content": system}, {"role": "user", "content": question}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
            for question in questions
        ]
        outputs = llm.generate(texts, params, use_tqdm=False)
        return PredictResponse(response=[output.outputs[0].text for output in outputs])

    return app


if __name__ == "__main__":
    main()
