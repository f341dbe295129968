#!/usr/bin/env bash
# Finding: an update by modelscope-hub that fails leaves neither the old nor the new file of the model.
#
# Packages:
#   modelscope-hub==0.5.1 certifi==2026.10.18 cffi==2.1.1 charset-normalizer==3.5.3 cryptography==50.0.2
#   filelock==4.3.1 idna==3.20 pycparser==3.12 requests==2.34.2 tqdm==4.70.1 urllib3==2.8.0
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: where the new file cannot be had, the call fails and the old file stays, as with a download to a file of another
#   name that is renamed at its end.
#
# Behaviour: `download_repo` compares the file in `local_dir` with the new listing, deletes it because its digest is another
#   one, and only then asks for the new file. A hub that answers 503 to that leaves an empty folder: at once without
#   retries, as here, and after 30 seconds with the six tries that are the default.
#
# Here: a model that served yesterday is gone after a hub's bad minute. gpuqa.download brings a new revision into a folder
#   beside the old one and renames it when it is complete.
#
# The hub is a server on the loopback that knows one file in two revisions and answers 503 to the download of the second.
#
# Output:
#   after v1: ['model.safetensors']
#   update to v2: FileDownloadError
#   after the update: []
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q --no-deps "${packages[@]}"; } || exit 2

cat >"$folder/update.py" <<'PYTHON'
import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from modelscope_hub import HubApi

CONTENT = {"v1": b"the old weights", "v2": b"the new weights"}  # revision -> content of model.safetensors


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a download of one file needs; it fails to hand out the file of v2."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        revision = parse_qs(url.query).get("Revision", [""])[0]
        if url.path == "/api/v1/models/owner/name/repo/files":
            content = CONTENT[revision]
            entry = {"Path": "model.safetensors", "Type": "blob", "Size": len(content)}
            entry["Sha256"] = hashlib.sha256(content).hexdigest()
            self.reply(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": [entry]}}).encode())
        elif url.path == "/api/v1/models/owner/name/repo" and revision == "v1":
            self.reply(200, CONTENT["v1"])
        else:
            self.reply(503 if revision else 404, b"")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def main(folder: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = HubApi(endpoint=f"http://127.0.0.1:{server.server_port}")
        hub.download_repo("owner/name", "model", revision="v1", local_dir=folder)
        print("after v1:", sorted(os.listdir(folder)))
        try:
            hub.download_repo("owner/name", "model", revision="v2", local_dir=folder)
            print("update to v2: no error")
        except Exception as error:
            print("update to v2:", type(error).__name__)
        print("after the update:", sorted(os.listdir(folder)))
        server.shutdown()


main(Path(sys.argv[1]))
PYTHON
# An empty home and token keep a login on this machine out of it; without retries it ends at once.
export HOME="$folder" NETRC=/dev/null MODELSCOPE_API_TOKEN="" MODELSCOPE_DOWNLOAD_MAX_RETRIES=0 TQDM_DISABLE=1
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
output=$("$folder/venv/bin/python" "$folder/update.py" "$folder/model" 2>"$folder/log") || { cat "$folder/log" >&2; exit 1; }
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
