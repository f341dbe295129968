#!/usr/bin/env bash
# Finding: importing submitit closes the log handlers of all other packages, and with absl's one a file that it was given.
#
# Packages:
#   submitit==1.5.4 cloudpickle==3.1.3 typing_extensions==4.16.0 absl-py==2.3.1
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: an import sets up the logger of its own package and leaves those of others alone; `disable_existing_loggers` is
#   False in submitit's configuration.
#
# Behaviour: `submitit.core.logger` calls `logging.config.dictConfig` when it is imported. That calls `close` of every handler
#   of the process, whatever `disable_existing_loggers` says. absl's handler closes the stream that it writes to, unless it is
#   that of the process. rouge-score imports absl, so a program that scores answers and then submits jobs loses that stream.
#
# Here: the import happens with SUBMITIT_LOG_LEVEL=NOCONFIG, which submitit leaves undocumented but for a comment.
#
# Output:
#   before: open, close was called 0 times
#   after: closed, close was called 1 times
#   with NOCONFIG: open, close was called 0 times
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q --no-deps "${packages[@]}"; } || exit 2

cat >"$folder/handlers.py" <<'PYTHON'
import io
import logging
import os

import absl.logging


class Counted(logging.Handler):
    closed_times = 0

    def close(self) -> None:
        self.closed_times += 1


stream = io.StringIO()
absl.logging.get_absl_handler().python_handler.stream = stream
mine = Counted()


def line(name: str) -> None:
    print(f"{name}: {'closed' if stream.closed else 'open'}, close was called {mine.closed_times} times")


if "SUBMITIT_LOG_LEVEL" not in os.environ:
    line("before")
import submitit  # noqa: E402, F401

line("with NOCONFIG" if "SUBMITIT_LOG_LEVEL" in os.environ else "after")
os._exit(0)  # the end of a process closes handlers, too
PYTHON
seen=$("$folder/venv/bin/python" -u "$folder/handlers.py"; SUBMITIT_LOG_LEVEL=NOCONFIG "$folder/venv/bin/python" -u "$folder/handlers.py")
echo "$seen"
[ "$seen" = "$(header Output)" ] || { echo "this differs from what was seen" >&2; exit 1; }
