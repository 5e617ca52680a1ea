"""What stands in deploy/ fits the service: its metrics, its words, and the forms of those who read it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tiny import assert_caught, assert_not_vacuous

from plait.cli.serve import serve
from plait.service.counters import Counters

DEPLOY = Path(__file__).parents[2] / "deploy"
SUFFIXES = {  # of what a dashboard asks for
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket",),
    "summary": ("_sum", "_count"),
}
NAME, LABELS = re.compile(r"\bplait_\w+"), re.compile(r"by \(([^)]*)\)|\{(\w+)=")
LABELLED = (
    "requests",
    "latency",
    "answered",
    "told",
    "events",
    "lookups",
    "shadowed",
    "shadow_difference",
    "logged",
    "log_failures",
    "queries_failed",
    "kept",
)  # of which there is no line before the first


def metrics_told() -> tuple[set[str], set[str]]:
    """The names that a dashboard may ask for, and the labels."""
    counters = Counters()
    labels = {label for name in LABELLED for label in getattr(counters, name)._labelnames}
    families = text_string_to_metric_families(counters.page().decode())
    names = {
        family.name + suffix
        for family in families
        for suffix in SUFFIXES[family.type]
        if not family.name.endswith("_created")
    }
    return names, labels


def check_dashboard(dashboard: Any) -> None:
    """It asks for every metric that the service tells, by labels that these have, and for nothing else."""
    told, labels = metrics_told()
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for expression in asked for name in NAME.findall(expression)} == told
    by = [
        name.strip()
        for expression in asked
        for both in LABELS.findall(expression)
        for name in "".join(both).split(",")
    ]
    assert set(by) <= labels | {"le"}
    assert_not_vacuous({"asked": len(asked), "by": len(by)}, 10)


def test_the_dashboard_asks_for_what_is_told() -> None:
    check_dashboard(json.loads((DEPLOY / "grafana.json").read_text()))


@pytest.mark.parametrize("word", ["plait_waiting", "plait_events_total", "by (outcome)"])
def test_a_dashboard_of_other_metrics_is_caught(word: str) -> None:
    text = (DEPLOY / "grafana.json").read_text()
    assert word in text
    assert_caught(check_dashboard, json.loads(text.replace(word, word.replace("t", "x"))))


def words_of(text: str) -> list[str]:
    return re.findall(r"(?<!\S)--([a-z-]+)", text)


def check_words(text: str) -> int:
    """Every setting of `plait serve` that is named is one of its own."""
    known = {name.replace("_", "-") for name in serve.__annotations__}
    found = words_of(text)
    assert set(found) <= known
    return len(found)


def test_the_service_is_started_by_words_that_it_knows() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    unit = (DEPLOY / "plait.service").read_text()
    (start,) = re.findall(r"^ExecStart=.*$", unit, re.MULTILINE)
    for command in (" ".join(composed["plait"]["command"]), start):
        assert " serve /" in f" {command}" and check_words(command) >= 2
    assert_caught(check_words, start.replace("--store", "--stored"))


def test_the_store_of_the_composition_keeps_what_it_acknowledges() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert composed["redis"]["command"][1:] == ["--appendonly", "yes", "--appendfsync", "always"]
    scraped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert [target for each in scraped for its in each["static_configs"] for target in its["targets"]] == [
        "plait:8000"
    ]
    key = scraped[0]["authorization"]["credentials_file"]
    assert any(f":{key}:" in volume for volume in composed["prometheus"]["volumes"])


def test_what_is_copied_into_the_image_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    kept = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied == kept and all((DEPLOY.parent / name).exists() for name in copied)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "plait.service").read_text().replace("/opt/plait/bin/plait", "/bin/true")
    (tmp_path / "plait.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "plait.service"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "plait.service" not in done.stderr, done.stderr
