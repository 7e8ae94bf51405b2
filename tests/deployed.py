"""The rules, dashboards and runbook of ``deploy/``, read for tests."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, disable_created_metrics

from gateway.metrics import Metrics, add_process_metrics

DEPLOY = Path(__file__).parents[1] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
# What Prometheus itself adds to every target, and makes of alerts.
OF_PROMETHEUS = {"up", "scrape_samples_scraped", "ALERTS"}
# Words of PromQL that look like names of metrics.
_NO_METRIC = re.compile(
    r"\b(sum|min|max|count|rate|increase|deriv|avg_over_time|max_over_time|time|vector|by|on|ignoring|and|or"
    r"|offset|histogram_quantile|clamp_min|group_left)\b"
)
_JOINED = re.compile(r" (?:and|or|unless)(?: on \([^)]*\))? ")
_COMPARED = re.compile(r" (?:>=|<=|==|!=|>|<) ")


@cache
def rules() -> tuple[dict[str, Any], ...]:
    """Every recording and alert rule."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return tuple(rule for group in groups for rule in group["rules"])


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    return [rule for rule in rules() if "alert" in rule]


def records() -> dict[str, str]:
    """The expression of each recording rule."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def runbook() -> dict[str, str]:
    """Each alert's section of the runbook, by its heading."""
    text = (DEPLOY / "runbook.md").read_text()
    parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)[1:]
    # What follows the last section of a part belongs to the next part.
    bodies = [body.partition("\n## ")[0] for body in parts[1::2]]
    return dict(zip(parts[::2], bodies, strict=True))


def panels_of(dashboard: Path) -> list[dict[str, Any]]:
    """Every panel of one dashboard that shows data."""
    found = json.loads(dashboard.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def panels() -> list[dict[str, Any]]:
    """The same of every dashboard."""
    return [panel for path in DASHBOARDS for panel in panels_of(path)]


def dashboard_expressions() -> list[str]:
    """Every query of every dashboard, with Grafana's own variables filled in."""
    raw = [target["expr"] for panel in panels() for target in panel["targets"]]
    filled = [re.sub(r"\$(instance|provider|agent)", ".*", e) for e in raw]
    return [e.replace("$__rate_interval", "1m") for e in filled]


def metric_names(expression: str) -> set[str]:
    """The metrics an expression asks for."""
    bare = re.sub(
        r'"[^"]*"|\[[^\]]*\]|\b(?:by|on|ignoring) *\([^)]*\)|(?<![\w:])\d[\w.]*', "", expression
    )
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]{1,}", _NO_METRIC.sub("", bare)))


def all_metric_names(expression: str) -> set[str]:
    """The same, with recorded names replaced by what these ask for."""
    recorded, found = records(), set[str]()
    for name in metric_names(expression):
        found |= all_metric_names(recorded[name]) if name in recorded else {name}
    return found


def operands(condition: str) -> list[str]:
    """What an alert compares, without the comparisons: this has data while all is well too."""
    sides = [side for part in _split(_JOINED, condition) for side in _split(_COMPARED, part)]
    return [side for side in sides if metric_names(side)]


def _split(separator: re.Pattern[str], expression: str) -> list[str]:
    """The parts between separators that stand in no bracket and no text."""
    parts, start = [], 0
    for found in separator.finditer(expression):
        if found.start() >= start and not _depth(expression[: found.start()]):
            parts.append(expression[start : found.start()])
            start = found.end()
    return [*parts, expression[start:]]


def _depth(text: str) -> int:
    plain = re.sub(r'"[^"]*"', "", text)
    return sum(plain.count(a) for a in "([{") - sum(plain.count(z) for z in ")]}")


@cache
def exported_names() -> frozenset[str]:
    """Every name a scrape of a new gateway brings."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
    registry = CollectorRegistry()
    add_process_metrics(registry)
    Metrics(registry)
    return frozenset(sample.name for family in registry.collect() for sample in family.samples)
