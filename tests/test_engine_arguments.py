"""Tests of gpuqa.config.engine_arguments: the names are those of the installed vLLM, which is not imported to read them."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from conftest import ROOT, run_python

from gpuqa.config.engine_arguments import argument_names


@pytest.mark.engine
def test_the_names_are_the_fields_of_vllms_own_class() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs  # seconds

    assert sorted(argument_names()) == sorted(field.name for field in dataclasses.fields(AsyncEngineArgs))


def test_vllm_is_not_imported_for_its_names(tmp_path) -> None:
    script = "import sys; from gpuqa.config.engine_arguments import argument_names\n"
    script += "print('max_num_seqs' in argument_names(), 'vllm' in sys.modules)"
    done = run_python("-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "True False\n")


def test_without_vllm_there_are_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert argument_names() == ()
