"""Rules, alerts and dashboards fit what a gateway exports, as judged by Prometheus itself."""

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.busy_gateway import UNTOUCHED, busy_gateway, everything_happens
from tests.deployed import (
    OF_PROMETHEUS,
    PROMETHEUS,
    alerts,
    all_metric_names,
    dashboard_expressions,
    exported_names,
    metric_names,
    operands,
    records,
    rules,
    runbook,
)
from tests.faults.scene import Scene
from tests.running import free_port, ops_url_of

# What an alert compares and a gateway that runs for seconds cannot have, and why.
NOT_YET = {"count(gateway_cost_usd_total offset 1d)": "it did not run yesterday"}


def binary(name: str) -> str:
    """The path of a program of Prometheus; skips, or fails where it is required."""
    found = shutil.which(name)
    if found:
        return found
    if "promtool" in os.environ.get("GATEWAY_TESTS_REQUIRE", ""):
        pytest.fail(f"{name} is required and not installed")
    pytest.skip(f"{name} is not installed (Debian package prometheus)")


def promtool(*arguments: str) -> None:
    """Run promtool on the deployed files and show what it says when it is not content."""
    done = subprocess.run(
        [binary("promtool"), *arguments],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_config_is_valid() -> None:
    """Promtool accepts the configuration together with the rules it loads."""
    promtool("check", "config", "prometheus.yml")


def test_rules_are_valid() -> None:
    """Promtool accepts the rules by themselves."""
    promtool("check", "rules", "rules.yml")


def test_alerts_fire_and_keep_quiet() -> None:
    """Alerts fire on their fault, resolve after it, and keep quiet on a healthy gateway."""
    promtool("test", "rules", "rules_test.yml")


def cases() -> list[dict[str, Any]]:
    """The unit tests of the alerts."""
    return list(yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"])


def test_every_alert_is_seen_to_fire_and_to_keep_quiet() -> None:
    """Each has a case in which it fires, and in the same case a moment at which it does not."""
    fires, quiet = set[str](), set[str]()
    for case in cases():
        here = defaultdict(set)
        for check in case["alert_rule_test"]:
            here[bool(check["exp_alerts"])].add(check["alertname"])
        fires |= here[True]
        quiet |= here[True] & here[False]
    assert {alert["alert"] for alert in alerts()} == fires == quiet


def test_the_healthy_gateway_has_all_that_alerts_ask_for() -> None:
    """Silence for want of data proves nothing: the healthy case has each alert and each metric."""
    (healthy,) = [case for case in cases() if case["name"] == "a healthy gateway keeps quiet"]
    fed = {series["series"].partition("{")[0] for series in healthy["input_series"]}
    asked = {name for alert in alerts() for name in all_metric_names(alert["expr"])}
    assert asked - fed == set()
    assert {check["alertname"] for check in healthy["alert_rule_test"]} == {
        alert["alert"] for alert in alerts()
    }
    assert not any(check["exp_alerts"] for check in healthy["alert_rule_test"])


def test_rules_ask_for_metrics_that_exist() -> None:
    """Every metric in a rule is exported, recorded by another rule, or made by Prometheus."""
    known = exported_names() | OF_PROMETHEUS | records().keys()
    asked = {name for rule in rules() for name in metric_names(rule["expr"])}
    assert asked - known == set()
    assert len(asked) > 40


def test_recordings_are_used() -> None:
    """What is recorded is asked for by an alert, a dashboard or another recording."""
    asked = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]
    used = {name for expression in asked for name in metric_names(expression)}
    # The objectives' own figures, for whoever reports them.
    reported = {"gateway:turn_latency_seconds:p95_5m"}
    assert records().keys() - used == reported


def test_alerts_tell_what_to_do() -> None:
    """Every alert has a severity we know, a summary, a description, and a section to open."""
    for alert in alerts():
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"] == {"severity": alert["labels"]["severity"]}, name
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert set(annotations) == {"summary", "description", "runbook_url"}, name
        assert annotations["runbook_url"] == f"deploy/runbook.md#{name.lower()}"


def test_the_runbook_has_a_section_for_each_alert() -> None:
    """One each, in the alerts' order, and each says what it means, where to look, what to do."""
    assert list(runbook()) == [alert["alert"] for alert in alerts()]
    parts = ("**The caller**", "**Meaning**", "**Look here**", "**Do this**")
    for name, text in runbook().items():
        assert [part for part in parts if text.count(part) != 1] == [], name


def test_the_runbook_asks_for_what_exists() -> None:
    """Metrics, recorded names and settings in the runbook are real."""
    text = "".join(runbook().values())
    known = exported_names() | records().keys()
    assert set(re.findall(r"\bgateway[_:][a-z_:0-9]+\b", text)) - known == set()
    settings = (PROMETHEUS.parents[1] / "README.md").read_text()
    named = set(re.findall(r"\bGATEWAY_[A-Z_]+\b", text))
    assert {name for name in named if f"`{name}`" not in settings} == set()


def questions() -> list[str]:
    """What the runbook asks Prometheus."""
    found = re.findall(r"`ask '([^']+)'`", "".join(runbook().values()))
    assert len(found) > 30
    return found


@asynccontextmanager
async def prometheus(target_port: int, folder: Path) -> AsyncIterator[str]:
    """A real Prometheus that scrapes a gateway every second and evaluates our rules."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        binary("prometheus"),
        f"--config.file={config_for(target_port, folder)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def config_for(target_port: int, folder: Path) -> Path:
    """Our configuration with another target, and in more of a hurry."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target_port}"]}]
    hasty = re.sub(r"interval: \w+", "interval: 1s", (PROMETHEUS / "rules.yml").read_text())
    (folder / "rules.yml").write_text(hasty)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


class Asked:
    """Questions to a Prometheus."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def numbers(self, expression: str) -> list[float]:
        """What it answers to one expression, NaN left out; [] while it is not up."""
        try:
            async with self._http.get(
                f"{self._url}/api/v1/query", params={"query": expression}
            ) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, json.JSONDecodeError):
            return []
        assert reply.status in {200, 503}, f"{expression}: {answer}"
        found = answer["data"]["result"] if reply.status == 200 else []
        numbers = [float(each["value"][1]) for each in found]
        return [number for number in numbers if not math.isnan(number)]

    async def wait_for(self, expression: str) -> None:
        """Poll until an expression has an answer; 30 s at most."""
        async with asyncio.timeout(30):
            while not await self.numbers(expression):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)

    async def without_data(self, expressions: list[str]) -> list[str]:
        """Those that have no answer."""
        return [each for each in expressions if not await self.numbers(each)]

    async def broken_rules(self) -> list[str]:
        """Rules that it could not evaluate, or has not."""
        async with self._http.get(f"{self._url}/api/v1/rules") as reply:
            groups = (await reply.json())["data"]["groups"]
        return [
            rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"
        ]


async def watched(scene: Scene, folder: Path) -> dict[str, Any]:
    """What a Prometheus had to say that watched everything happen to a gateway."""
    async with (
        prometheus(scene.running.ops_port, folder) as url,
        aiohttp.ClientSession() as http,
    ):
        asked = Asked(http, url)
        await asked.wait_for("up == 1")
        await everything_happens(scene)
        # The last call is told of: a scrape and an evaluation later all is known.
        ended = scene.metric("calls_ended_total")
        await asked.wait_for(f"sum(gateway_calls_ended_total) == {ended}")
        await asked.wait_for("min_over_time(gateway:cost_per_minute_usd:1h[2s]) > 0")
        for question in questions():
            await asked.numbers(question)  # fails if it cannot be read; it may have no answer
        conditions = [each for alert in alerts() for each in operands(alert["expr"])]
        return {
            "panels": await asked.without_data(dashboard_expressions()),
            "recordings": await asked.without_data(list(records())),
            "alerts": await asked.without_data(conditions),
            "rules": await asked.broken_rules(),
            "scraped": await asked.numbers("scrape_samples_scraped"),
        }


async def test_every_expression_has_data(tmp_path: Path) -> None:
    """A real Prometheus, which scraped a real gateway under load, answers every expression.

    Panels and recordings as they are; of alerts what they compare, as they must not fire.
    """
    # Debug mode would double what the calls cost the loop that they share with the gateway.
    asyncio.get_running_loop().set_debug(False)
    async with busy_gateway(tmp_path) as scene:
        seen = await watched(scene, tmp_path)
        untouched = await names_at_zero(scene)

    assert seen["panels"] == []
    assert seen["recordings"] == []
    assert set(seen["alerts"]) == NOT_YET.keys()
    assert seen["rules"] == []
    assert 500 < seen["scraped"][0] < 3000
    assert untouched - UNTOUCHED.keys() == set()


async def names_at_zero(scene: Scene) -> set[str]:
    """Counters and histograms that nothing has happened to."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{ops_url_of(scene.running)}/metrics") as reply,
    ):
        text = await reply.text()
    totals: dict[str, float] = defaultdict(float)
    for line in re.findall(r"^gateway_\w+(?:_total|_count)(?:\{.*\})? \S+$", text, re.MULTILINE):
        name = re.match(r"\w+", line)
        assert name
        totals[name[0].removesuffix("_count")] += float(line.rpartition(" ")[2])
    return {name for name, total in totals.items() if not total}
