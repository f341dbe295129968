#!/usr/bin/env bash
# Finding: the name of a metric with a colon depends on who asks: prometheus_client shows vllm:requests_total to a browser and
#   vllm_requests_total to Prometheus.
#
# Packages:
#   prometheus_client==0.26.0
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: one name. A colon is legal in both formats, and Prometheus 2 takes either.
#
# Behaviour: Prometheus 2 asks for OpenMetrics first. In that format the server writes every colon in a sample's name as `_`, unless
#   the scraper asks for `escaping=allow-utf-8`, and keeps it in the lines `# HELP` and `# TYPE` above, so that the samples have
#   neither a type nor a help. In the text format, which curl gets, the colon stays.
#
# Here: vLLM's metrics are called vllm:..., and so is what gpuqa shows of them. A dashboard made with curl's names beside it would
#   have been empty. GET /metrics therefore answers in the text format, whatever is asked for.
#
# Output:
#   */*: vllm:requests_total{model="m"} 1.0
#   Prometheus 2: # TYPE vllm:requests counter
#   Prometheus 2: vllm_requests_total{model="m"} 1.0
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
from urllib.request import Request, urlopen

from prometheus_client import CollectorRegistry, Counter, start_http_server

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

registry = CollectorRegistry()
Counter("vllm:requests", "Requests.", ["model"], registry=registry).labels("m").inc()
server, _ = start_http_server(0, "127.0.0.1", registry)


def lines(accept: str) -> list[str]:
    request = Request(f"http://127.0.0.1:{server.server_port}/metrics", headers={"Accept": accept})
    with urlopen(request) as reply:
        return reply.read().decode().splitlines()


print("*/*:", next(line for line in lines("*/*") if "_total{" in line))
for begin in ("# TYPE", "vllm_requests_total"):
    print("Prometheus 2:", next(line for line in lines(PROMETHEUS_2) if line.startswith(begin)))
server.shutdown()
PYTHON
)
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
