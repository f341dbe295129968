"""What of a request's tokens was sent to its client."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.request import Request

STOP_STRING_TOKENS = 16  # of an answer that are sent together where vLLM looks for a stop string


@dataclass(slots=True)
class HandedOut:
    """How many tokens of a request were sent to its client."""

    request: Request
    together: int  # so many are sent at once, but for the first one and the last ones
    tokens: int = 0

    @property
    def is_due(self) -> bool:
        """Whether as many tokens are there as are sent together."""
        return len(self.request._output_token_ids) - self.tokens >= self.together

    def rest(self) -> list[int]:
        """The ids of the tokens that were not sent yet; they count as sent from now on."""
        tokens: list[int] = self.request._output_token_ids[self.tokens :]
        self.tokens += len(tokens)
        return tokens

    def output(self) -> EngineCoreOutput:
        """The message with the rest, and why the request ended, if it did."""
        request = self.request
        return EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=self.rest(),
            finish_reason=request.get_finished_reason(),
            stop_reason=request.stop_reason,
            events=request.take_events(),
            trace_headers=request.trace_headers,
        )


def sent_together(request: Request, stream_interval: int) -> int:
    """Tokens of a request that are sent at once: of a streamed answer vLLM's `stream_interval`, of a whole one all, or
    `STOP_STRING_TOKENS` where vLLM looks for a stop string.

    It looks where tokens become text, in the client's process, finds what it would have found token by token, drops the tokens
    behind it and aborts the request, which has taken a few steps in vain by then.
    """
    params = request.sampling_params
    if params.output_kind != RequestOutputKind.FINAL_ONLY:
        return stream_interval
    return STOP_STRING_TOKENS if params.stop else int(request.max_tokens)
