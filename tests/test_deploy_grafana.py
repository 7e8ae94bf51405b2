"""The dashboards are whole: what Grafana needs of them, and what whoever reads them needs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployed import (
    DASHBOARDS,
    DEPLOY,
    OF_PROMETHEUS,
    alerts,
    dashboard_expressions,
    exported_names,
    metric_names,
    panels,
    panels_of,
    records,
)

PAGES = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)


def read(dashboard: Path) -> dict[str, Any]:
    """One dashboard."""
    loaded = json.loads(dashboard.read_text())
    assert isinstance(loaded, dict)
    return loaded


def variables(dashboard: Path) -> dict[str, dict[str, Any]]:
    """Its variables by name."""
    return {each["name"]: each for each in read(dashboard)["templating"]["list"]}


def test_the_files_are_what_their_source_says() -> None:
    """Nobody has edited a dashboard and left the next run to undo it."""
    script = DEPLOY / "grafana" / "make_dashboards.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_four_with_names_of_their_own() -> None:
    """One for each purpose; Grafana tells them apart by uid."""
    assert {path.stem for path in DASHBOARDS} == {"now", "quality", "realtime", "host"}
    for key in ("uid", "title", "description"):
        assert len({read(path)[key] for path in DASHBOARDS}) == 4


def test_dashboards_ask_for_metrics_that_exist() -> None:
    """Every metric in a panel is exported or recorded."""
    asked = {name for e in dashboard_expressions() for name in metric_names(e)}
    assert asked - exported_names() - records().keys() - OF_PROMETHEUS == set()
    assert len(asked) > 60


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    """Nothing is measured that nobody looks at."""
    shown = " ".join(dashboard_expressions())
    names = {name for name in exported_names() if name.startswith("gateway_")}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in names}
    stems = {family.removesuffix("_total") for family in families}
    assert {stem for stem in stems if stem not in shown} == set()


@PAGES
def test_panels_are_whole(dashboard: Path) -> None:
    """Every panel has its own id, a title, a description, a unit and colours."""
    found = read(dashboard)["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in panels_of(dashboard):
        assert panel["title"]
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["description"].endswith((".", "?")), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None
        assert steps[1:] == sorted(steps[1:]), panel["title"]
        assert panel["targets"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


@PAGES
def test_every_row_has_a_title_and_panels(dashboard: Path) -> None:
    """A page begins with a row, and no row is empty."""
    kinds = [panel["type"] for panel in read(dashboard)["panels"]]
    assert kinds[0] == "row"
    assert ("row", "row") not in set(zip(kinds, [*kinds[1:], "row"], strict=True))
    assert all(panel["title"] for panel in read(dashboard)["panels"])


@PAGES
def test_the_data_source_can_be_chosen(dashboard: Path) -> None:
    """Panels, queries and choices name the variable; it is of the kind that is provisioned."""
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    kinds = {source["type"] for source in yaml.safe_load(path.read_text())["datasources"]}
    assert {variables(dashboard)["datasource"]["query"]} == kinds
    asked = [*panels_of(dashboard), *read(dashboard)["annotations"]["list"]]
    asked += [target for panel in panels_of(dashboard) for target in panel["targets"]]
    asked += [each for each in variables(dashboard).values() if each["type"] == "query"]
    assert {(each["datasource"]["type"], each["datasource"]["uid"]) for each in asked} == {
        ("prometheus", "${datasource}")
    }


@PAGES
def test_only_known_variables_are_used(dashboard: Path) -> None:
    """Every $name of an expression or a link is a variable of the page, or Grafana's own."""
    text = json.dumps(read(dashboard))
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used - variables(dashboard).keys() == set()
    assert variables(dashboard).keys() - used == set()
    assert set(re.findall(r"\$(__\w+)", text)) <= {"__rate_interval", "__all"}


def test_calls_can_be_narrowed_to_a_provider_and_an_agent() -> None:
    """The first page has both choices, and both reach the metrics that have these labels."""
    (now,) = [path for path in DASHBOARDS if path.stem == "now"]
    assert {"provider", "agent"} <= variables(now).keys()
    narrowed = [t["expr"] for p in panels_of(now) for t in p["targets"] if "$provider" in t["expr"]]
    assert len(narrowed) >= 3
    names = {"gateway_calls_active", "gateway_calls_started_total"}
    assert {name for e in narrowed for name in metric_names(e)} == names


def test_links_lead_to_the_runbook() -> None:
    """A panel's links name alerts that exist, and every alert is reachable from a panel."""
    names = {alert["alert"].lower() for alert in alerts()}
    linked = {link["url"] for panel in panels() for link in panel["links"]}
    assert {url.partition("#")[0] for url in linked} == {"${runbook}"}
    assert {url.partition("#")[2] for url in linked} == names


@PAGES
def test_panels_do_not_overlap(dashboard: Path) -> None:
    """No two panels cover the same cell, and none leaves the grid of 24 columns."""
    cells: set[tuple[int, int]] = set()
    for panel in read(dashboard)["panels"]:
        grid = panel["gridPos"]
        own = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in own) < 24, panel["title"]
        assert not own & cells, panel["title"]
        cells |= own
