#!/usr/bin/env bash
# Finding: the openai client's stream() raises at the end of a plain text that reached max_tokens; create(stream=True) does not.
#
# Packages:
#   openai==3.57.0
#   annotated-types==0.8.0 anyio==4.16.0 h11==0.16.0 httpcore2==2.16.2 httpx2==2.16.2 idna==3.20 jiter==0.19.0 pydantic==2.14.4
#   pydantic_core==2.50.5 sniffio==1.3.1 truststore==0.10.5 typing_extensions==4.16.0 typing-inspection==0.4.5
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: both hand out the text and finish_reason "length". Nothing was to be parsed: no response_format and no tool was given.
#
# Behaviour: the helper takes every end by "length" for a failure to parse and raises LengthFinishReasonError while it is iterated, so
#   that there is no final completion. `.parse()` does the same.
#
# Here: an answer that is cut at sampling.max_tokens is an ordinary answer. docs/serving.md says which call to use for it.
#
# The server is one on the loopback that streams one word and says that the limit was reached.
#
# Output:
#   create(stream=True): warp length
#   stream(): Could not parse response content as the length limit was reached
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q --no-deps "${packages[@]}"; } || exit 2

export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
output=$("$folder/venv/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from openai import LengthFinishReasonError, OpenAI


class Server(BaseHTTPRequestHandler):
    """Answers every question with one word and says that the limit of tokens was reached."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        pieces = [({"role": "assistant", "content": "warp"}, None), ({}, "length")]
        chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in pieces]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="-", max_retries=0)
    asked = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    print("create(stream=True):", chunks[0].choices[0].delta.content, chunks[-1].choices[0].finish_reason)
    try:
        with client.chat.completions.stream(**asked) as stream:
            print("stream():", stream.get_final_completion().choices[0].finish_reason)
    except LengthFinishReasonError as error:
        print("stream():", error)
    server.shutdown()
PYTHON
)
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
