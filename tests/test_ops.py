"""The dashboard and the alert rules, against the metrics that a real server really shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import httpx
import pytest
import yaml
from conftest import ROOT
from prometheus_client.parser import text_string_to_metric_families

from gpuqa.serving import telemetry
from gpuqa.serving.life import State

pytestmark = pytest.mark.engine

DASHBOARD = json.loads((ROOT / "ops" / "grafana.json").read_text(encoding="utf-8"))
GROUPS = yaml.safe_load((ROOT / "ops" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
PANELS = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in DASHBOARD["panels"]}
EXPRESSIONS = sorted({rule["expr"] for rule in RULES} | {expr for exprs in PANELS.values() for expr in exprs})
ADDED_BY_PROMETHEUS = {"instance", "job"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?(?!\w*\()")
WORDS = {"by", "sum", "rate", "increase", "histogram_quantile"}


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Every metric that a PromQL expression reads, with the labels that it asks for."""
    bare = re.sub(r"\bby \([^)]*\)|\[[^]]*\]", "", expression)
    found = [(name, labels or "") for name, labels in SELECTOR.findall(bare) if name not in WORDS]
    return [(name, dict(re.findall(r'(\w+)=~?"([^"]*)"', labels))) for name, labels in found]


# What Prometheus 2 asks for; with it, prometheus_client's own server would answer in OpenMetrics.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.fixture(scope="module")
def scraped(service: Any) -> httpx.Response:
    """What Prometheus gets, after one question."""
    service.predict("什么是 warp？")
    return httpx.get(f"{service.url}/metrics", timeout=60, trust_env=False, headers={"Accept": ACCEPT})


@pytest.fixture(scope="module")
def shown(scraped: httpx.Response) -> dict[str, set[str]]:
    """Sample name -> its label names."""
    samples = [sample for family in text_string_to_metric_families(scraped.text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def test_prometheus_gets_the_text_format_with_vllms_own_names_and_no_times_of_creation(
    scraped: httpx.Response, shown: dict[str, set[str]]
) -> None:
    assert scraped.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {"vllm:num_requests_running", "vllm:num_preemptions_total"} <= {*shown}
    assert not [name for name in shown if name.endswith("_created") or name.startswith("vllm_")]


def test_the_reader_of_these_tests_sees_metrics_and_labels() -> None:
    read = selectors('sum by (le, x) (rate(a_bucket{i=~"$i", o="b"}[5m])) / c > 0.5')
    assert read == [("a_bucket", {"i": "$i", "o": "b"}), ("c", {})]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_is_used_exists(expression: str, shown: dict[str, set[str]]) -> None:
    read = selectors(expression)
    assert read
    grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
    for name, labels in read:
        if name == "up":  # Prometheus' own
            continue
        assert name in shown
        assert {*labels, *grouped} - ADDED_BY_PROMETHEUS <= shown[name], name
        for label, wanted in labels.items():
            known = {one.name for one in State} if label == "state" else set(re.findall(r"\w+", telemetry.__doc__ or ""))
            assert label in ADDED_BY_PROMETHEUS or set(wanted.split("|")) <= known, wanted


def test_the_dashboard_shows_every_metric_of_ours(shown: dict[str, set[str]]) -> None:
    used = {name.removesuffix("_bucket") for exprs in PANELS.values() for expr in exprs for name, _ in selectors(expr)}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown if name.startswith("gpuqa_")}
    assert len(ours) > 15
    assert not ours - used


def test_an_alert_says_what_to_do_and_how_bad_it_is() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) >= 8
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_promtool_accepts_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool here: apt-get install prometheus")
    run = subprocess.run([promtool, "check", "rules", str(ROOT / "ops" / "alerts.yaml")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_panels_have_places_of_their_own_and_a_data_source_that_can_be_chosen() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert {one["name"] for one in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
