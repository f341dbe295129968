"""What a server tells about itself: /info without the places of files, and /docs without a network."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from gpuqa.serving.routes.info import without_paths


def test_of_a_path_only_its_last_part_is_shown() -> None:
    facts = {
        "frozen": {
            "file": "experiments/mine/frozen.yaml",
            "reason": "4 chars/s a/b",
            "pipeline": {"model": {"path": "/mnt/w/"}},
        },
        "setting": [{"path": "~/questions.json", "warmup": None, "template": "{{ a }}/{{ b }}"}],
        "download_dir": "/home/somebody/cache",
        "digests": {"tokenizer": "5bb6"},
        "number": 3,
    }
    assert without_paths(facts) == {
        "frozen": {"file": "frozen.yaml", "reason": "4 chars/s a/b", "pipeline": {"model": {"path": "w"}}},
        "setting": [{"path": "questions.json", "warmup": None, "template": "{{ a }}/{{ b }}"}],
        "download_dir": "cache",
        "digests": {"tokenizer": "5bb6"},
        "number": 3,
    }


@pytest.mark.engine
def test_the_info_of_a_real_server_names_no_place_of_this_machine(service: Any, study_folder: Any) -> None:
    text = httpx.get(f"{service.url}/info", timeout=60, trust_env=False).text
    assert json.loads(text)["frozen"]["pipeline"]["model"]["path"] == "model"
    assert json.loads(text)["frozen"]["file"] == "frozen.yaml"
    assert str(study_folder.parent) not in text
    assert "gpuqa/embedded" not in text


@pytest.mark.engine
def test_the_docs_name_every_route_and_load_nothing(service: Any) -> None:
    reply = httpx.get(f"{service.url}/docs", timeout=60, trust_env=False)
    assert reply.status_code == 200
    assert not re.findall(r"<script|<link|<img|src=|https?://|url\(", reply.text), "nothing is loaded, from nowhere"
    assert set(re.findall(r'href="([^"]*)"', reply.text)) == {"openapi.json", "ui"}
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    paths = httpx.get(f"{service.url}/openapi.json", timeout=60, trust_env=False).json()["paths"]
    shown = re.findall(r"<h2><code>(\w+) ([^<]+)</code>", reply.text)
    assert {(method.lower(), path) for method, path in shown} == {(way, path) for path, ways in paths.items() for way in ways}
    assert "chars" not in httpx.get(f"{service.url}/redoc", timeout=60, trust_env=False).text
