"""Is this machine ready for a study? What is here, what is missing, and which overrides of vLLM run; no engine starts.

    python -m gpuqa.check                              # for the default study
    python -m gpuqa.check experiment=rtx5090           # for the study that gpuqa.sweep would run with the same words
    python -m gpuqa.check experiment=none model=qwen3_0_6b_gpu_pro engine=vllm json=true     # or --json: one JSON object

It looks at the machine and its GPUs, packages, driver and compilers, overrides, weights, questions and their lengths, memory,
disks, the network, and the port of gpuqa.serve. Whether an override runs is said by the function that an engine asks before
its start. What only a running engine finds out, such as a model that an override does not know, a study says when it is there.

Exit codes: 0 the study can run here, 1 it lacks something (lines that begin with "missing", each with what to do), 2 the input
is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.text import Text

from gpuqa.config import UserError, plain
from gpuqa.config.app import run_command
from gpuqa.config.cells import Cells
from gpuqa.config.command_line import terminal
from gpuqa.config.commands import CheckConfig, resolve
from gpuqa.machine import hardware
from gpuqa.measure.fingerprint import environment, git_commit
from gpuqa.pipeline.model_folder import check_length
from gpuqa.readiness import Finding, State
from gpuqa.readiness.disks import disks
from gpuqa.readiness.files import files, lengths, network
from gpuqa.readiness.machine import cards, in_use, machine, port
from gpuqa.readiness.memory import memory
from gpuqa.readiness.overrides import overrides
from gpuqa.readiness.packages import backends, executor
from gpuqa.selection.wording import counted
from gpuqa.study.cell_checks import CellChecks

STYLES = {State.ok: "", State.note: "yellow", State.missing: "bold red"}


def main() -> None:
    """Enter with conf/check.yaml."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it logs to standard output
    sys.argv = [word if word != "--json" else "json=true" for word in sys.argv]
    run_command(check, "check")


def check(composed: Cells) -> int:
    """All cells (the study sweeper hands them over at once) -> exit code. Of a large study a few have all that is needed."""
    checks = CellChecks()
    cells = list(composed.with_all_values(lambda config: checked(resolve(config, CheckConfig), checks)).values())
    gpus = hardware.gpus()
    findings = [*machine(), *cards(gpus), *in_use(gpus), *backends(cells, gpus), *executor(cells[0].executor)]
    findings += [*overrides(cells), *files(cells, checks)]
    findings += [*lengths(cells, checks), *memory(cells, checks, gpus), *disks(cells, checks), network(cells, checks)]
    findings.append(port(cells[0].http))
    missing = sum(finding.state is State.missing for finding in findings)
    code = int(missing > 0)
    if cells[0].json:
        here = {**environment(), "git_commit": git_commit(), "gpus": [asdict(gpu) for gpu in gpus]}
        found = [asdict(finding) for finding in findings]
        values = plain({"ready": not missing, "exit_code": code, "findings": found, "environment": here})
        print(json.dumps(values, ensure_ascii=False))
        return code
    show(findings)
    print(f"not ready: {counted(missing, 'thing')} missing (exit code 1)" if missing else "ready: this study can run here")
    return code


def checked(config: CheckConfig, checks: CellChecks) -> CheckConfig:
    """A cell, if its engine and its model could do what is asked.

    Raises:
        UserError: they could not; a file that is missing is none of these mistakes.
    """
    checks.check_engine(config)
    try:
        folder = checks.model(config.model)
    except UserError:  # told later, by `weights`
        return config
    check_length(folder, config.engine)
    return config


def show(findings: Sequence[Finding]) -> None:
    """A line for each: its state, what it is about, what was found."""
    console, width = terminal(), max(len(finding.name) for finding in findings)
    for finding in findings:
        line = f"{finding.state.value:<7}  {finding.name:<{width}}  {finding.text}"
        console.print(Text(line, STYLES[finding.state]), soft_wrap=True)


if __name__ == "__main__":
    main()
