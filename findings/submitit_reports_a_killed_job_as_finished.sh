#!/usr/bin/env bash
# Finding: submitit's local executor reports a job that SIGKILL ended as FINISHED, and names the signal nowhere.
#
# Packages:
#   submitit==1.5.4 cloudpickle==3.1.3 typing_extensions==4.16.0
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: the state of a job that the out-of-memory killer ended differs from that of a job that returned a value:
#   `LocalJob.get_info` has the state INTERRUPTED for it.
#
# Behaviour: the state is FINISHED for both, and `exception()` takes over ten seconds to say only that there is no output.
#   The process whose exit status `get_info` looks at is not the job but submitit's controller, which waits for the job
#   and then ends with status 0 whatever became of it.
#
# Here: an executor on top of submitit cannot tell from a state that a worker was killed. It has to look for the result
#   itself, and to find the reason itself.
#
# Output:
#   returned a value: FINISHED, result 42
#   killed: FINISHED, UncompletedJobError, more than 10 s later: True, names the signal: False
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q --no-deps "${packages[@]}"; } || exit 2

cat >"$folder/jobs.py" <<'PYTHON'
import os
import signal
import sys
import time

import submitit


def return_a_value() -> int:
    return 42


def be_killed() -> int:
    """End as the kernel's out-of-memory killer ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 42


if __name__ == "__main__":
    executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="local")
    executor.update_parameters(timeout_min=2)
    returned, killed = executor.submit(return_a_value), executor.submit(be_killed)
    while not (returned.done() and killed.done()):
        time.sleep(0.1)
    print(f"returned a value: {returned.state}, result {returned.result()}")
    state, start = killed.state, time.monotonic()
    error = killed.exception()
    late = time.monotonic() - start > 10
    text = str(error).replace(sys.argv[1], "").lower()  # without the name of the folder, which is made of random letters
    named = any(word in text for word in ("kill", "signal", "-9"))
    print(f"killed: {state}, {type(error).__name__}, more than 10 s later: {late}, names the signal: {named}")
PYTHON
output=$("$folder/venv/bin/python" "$folder/jobs.py" "$folder/jobs")
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
