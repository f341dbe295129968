"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}. All that goes wrong under /v1 has it."""

from __future__ import annotations

KINDS = {401: "authentication_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 404: "unknown_url", 405: "method_not_allowed", 408: "timeout", 500: "failed"}


class ApiError(Exception):
    """An error in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.status, self.param, self.headers = status, param, dict[str, str]()
        shown = param if param is None or param.isascii() else None  # the official clients print it
        self.body = {"error": {"message": message, "type": kind, "param": shown, "code": code}}
