#!/usr/bin/env bash
# Finding: Hydra's range(0.1,0.4,0.1) has its stop in it and a value of 17 digits, while range(0.0,0.3,0.1) has neither.
#
# Packages:
#   hydra-core==1.3.8 omegaconf==2.3.1 antlr4-python3-runtime==4.9.3 packaging==26.3 PyYAML==6.0.3
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: three values each, since the stop of a range is not part of it, and `FloatRange` adds `decimal.Decimal`s.
#
# Behaviour: the decimals are made of floats, not of their texts, so that each is the binary number in full. Where three times
#   0.1 lies below 0.4 by a hair, a fourth value comes, and it is printed as 0.4. Others come out as 0.30000000000000004.
#
# Here: a study would have measured a cell that nobody asked for, and two studies whose cells have one meaning and two names
#   could not be compared. hydra_plugins/gpuqa_study.py makes the decimals of the texts before Hydra adds them.
#
# Output:
#   range(0.1,0.4,0.1): [0.1, 0.2, 0.30000000000000004, 0.4]
#   range(0.7,1.0,0.1): [0.7, 0.7999999999999999, 0.8999999999999999, 1.0]
#   range(0.0,0.3,0.1): [0.0, 0.1, 0.2]
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q --no-deps "${packages[@]}"; } || exit 2

output=$("$folder/venv/bin/python" - <<'PYTHON'
from hydra.core.override_parser.overrides_parser import OverridesParser

parser = OverridesParser.create()
for written in ("range(0.1,0.4,0.1)", "range(0.7,1.0,0.1)", "range(0.0,0.3,0.1)"):
    print(f"{written}: {list(parser.parse_override(f'temperature={written}').sweep_iterator())}")
PYTHON
)
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
