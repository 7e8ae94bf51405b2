"""The alert rules and the dashboard fit the metrics we export, as judged by Prometheus itself."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from gateway.events import (
    ULAW_8K,
    AudioCounted,
    AudioDropped,
    BargedIn,
    BargeInConfirmed,
    CallBegan,
    CallEnded,
    CallReady,
    CostIncurred,
    DeadAir,
    DtmfEntered,
    Fact,
    FirstAudioSent,
    FrameRejected,
    ItemPlayed,
    MarksLost,
    PromptPlayed,
    QueueSeen,
    RateLimitSeen,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeLost,
    RealtimeReconnected,
    RelayMeasured,
    SetUpTimed,
    Termination,
    TokensUsed,
    ToolCalled,
    TurnAnswered,
    TurnLost,
    TurnTimed,
    TurnTimedOut,
    Underrun,
    Usage,
)
from gateway.metrics import Metrics, add_process_metrics

DEPLOY = Path(__file__).parent.parent / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

# What Prometheus itself adds to every target.
OF_PROMETHEUS = {"up", "scrape_samples_scraped"}
# Words of PromQL that look like names of metrics.
NO_METRIC = re.compile(
    r"\b(sum|min|max|rate|increase|deriv|time|vector|by|on|and|or|histogram_quantile|clamp_min)\b"
)

FACTS: tuple[Fact, ...] = (
    CallBegan("twilio", "default", "CA1", "", "", ULAW_8K, ULAW_8K),
    RealtimeDialled("429", 0.1),
    RealtimeDialled("ok", 0.2),
    CallReady(0.3),
    FirstAudioSent(0.9),
    AudioCounted("up", 1000),
    AudioCounted("down", 1000),
    AudioDropped("down", "unheard", 300),
    AudioDropped("up", "gap", 20),
    RelayMeasured("up", 0.001),
    RelayMeasured("down", 0.002),
    TurnAnswered(0.8),
    TurnTimed(0.5, 0.7, 0.001, 0.001, 0.1),
    TurnLost("interrupted"),
    DeadAir(4),
    Underrun(60),
    QueueSeen("down", 1500),
    QueueSeen("up", 300),
    SetUpTimed("dial", 0.2),
    TurnTimedOut(is_final=False),
    BargedIn(0.004),
    BargeInConfirmed(180),
    ItemPlayed("item", 2000, 1500, ""),
    DtmfEntered(),
    ToolCalled("unknown"),
    TokensUsed(Usage(10, 20, 5, 5, 30, 40)),
    CostIncurred("other", 0.01, 100),
    RealtimeErrorSeen("server_error", "retry", ""),
    RateLimitSeen("tokens", 1000),
    FrameRejected("provider", "bad_json", ""),
    MarksLost(),
    PromptPlayed("apology"),
    RealtimeLost(1006, 10, is_expected=False),
    RealtimeReconnected(0.7),
    RealtimeLost(1000, 10, is_expected=True),
    CallEnded(Termination("caller_hangup"), 20, 1, 1, 2000, 1500),
)


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
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """Every recording and alert rule."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel of every dashboard that shows data."""
    return [panel for path in DASHBOARDS for panel in panels_of(path)]


def panels_of(dashboard: Path) -> list[dict[str, Any]]:
    """Every panel of one dashboard that shows data."""
    found = json.loads(dashboard.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """Every query of every dashboard, with Grafana's own variables filled in."""
    raw = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [e.replace("$__rate_interval", "1m").replace("$instance", ".*") for e in raw]


def metric_names(expression: str) -> set[str]:
    """The metrics an expression asks for."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\b(?:by|on) *\([^)]*\)', "", expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(re.findall(r"[a-z_:][a-z0-9_:]{2,}", NO_METRIC.sub("", bare)))


def one_call(metrics: Metrics) -> None:
    """Let one call happen in which everything happens."""
    call = metrics.call()
    for fact in FACTS:
        call.observe(fact)
    metrics.rejected("admission", "capacity")
    metrics.auth_failed("signature")
    metrics.loop_lag(0.001)
    metrics.token_refreshed("ok")


def busy_registry() -> tuple[CollectorRegistry, Metrics]:
    """The metrics of a process that had one call and takes more."""
    registry = CollectorRegistry()
    add_process_metrics(registry)
    metrics = Metrics(registry)
    metrics.set_ready(is_ready=True)
    metrics.set_calls_limit(100)
    metrics.set_token_expiry(time.time() + 3600)
    one_call(metrics)
    return registry, metrics


def exported_names() -> set[str]:
    """Every name a scrape brings."""
    registry, _ = busy_registry()
    return {sample.name for family in registry.collect() for sample in family.samples}


def test_config_is_valid() -> None:
    """Promtool accepts the configuration together with the rules it loads."""
    promtool("check", "config", "prometheus.yml")


def test_rules_are_valid() -> None:
    """Promtool accepts the rules by themselves."""
    promtool("check", "rules", "rules.yml")


def test_alerts_fire_and_keep_quiet() -> None:
    """Alerts fire on their fault, resolve after it, and keep quiet on a healthy gateway."""
    promtool("test", "rules", "rules_test.yml")


def test_rules_ask_for_metrics_that_exist() -> None:
    """Every metric in a rule is exported, recorded by another rule, or made by Prometheus."""
    known = exported_names() | OF_PROMETHEUS | {r["record"] for r in rules() if "record" in r}
    asked = {name for rule in rules() for name in metric_names(rule["expr"])}
    assert asked - known == set()
    assert len(asked) > 20


def test_dashboard_asks_for_metrics_that_exist() -> None:
    """Every metric in a panel is exported."""
    asked = {name for e in dashboard_expressions() for name in metric_names(e)}
    assert asked - exported_names() - OF_PROMETHEUS == set()
    assert len(asked) > 30


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    """Nothing is measured that nobody looks at."""
    shown = " ".join(dashboard_expressions())
    names = {name for name in exported_names() if name.startswith("gateway_")}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in names}
    stems = {family.removesuffix("_total") for family in families}
    assert {stem for stem in stems if stem not in shown} == set()


def test_alerts_tell_what_to_do() -> None:
    """Every alert has a severity we know, a summary and a description."""
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 20
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}, alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description"}, alert["alert"]


def test_panels_are_whole() -> None:
    """Every panel has its own id, a title, a description, and the provisioned data source."""
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    uids = {source["uid"] for source in yaml.safe_load(path.read_text())["datasources"]}
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} <= uids


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(dashboard: Path) -> None:
    """No two panels cover the same cell, and none leaves the grid of 24 columns."""
    cells: set[tuple[int, int]] = set()
    for panel in panels_of(dashboard):
        grid = panel["gridPos"]
        own = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in own) < 24, panel["title"]
        assert not own & cells, panel["title"]
        cells |= own


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def prometheus_url(tmp_path: Path) -> AsyncIterator[str]:
    """A real Prometheus that scrapes a registry in which calls keep happening."""
    program = binary("prometheus")
    registry, metrics = busy_registry()

    async def scrape(_: web.Request) -> web.Response:
        one_call(metrics)
        return web.Response(body=generate_latest(registry))

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    target = runner.addresses[0][1]
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={config_for(target, tmp_path)}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        await runner.cleanup()


def config_for(target_port: int, folder: Path) -> Path:
    """Our configuration with another target, and in more of a hurry."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target_port}"]}]
    hasty = (PROMETHEUS / "rules.yml").read_text().replace("interval: 30s", "interval: 1s")
    (folder / "rules.yml").write_text(hasty)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


async def query(http: aiohttp.ClientSession, url: str, expression: str) -> list[Any]:
    """What Prometheus answers to one expression; [] while it is not up."""
    try:
        async with http.get(f"{url}/api/v1/query", params={"query": expression}) as reply:
            answer = await reply.json(content_type=None)
            assert reply.status in {200, 503}, f"{expression}: {answer}"
            return answer["data"]["result"] if reply.status == 200 else []
    except (aiohttp.ClientError, json.JSONDecodeError):
        return []


async def wait_until(http: aiohttp.ClientSession, url: str, expression: str) -> None:
    """Poll until an expression has an answer; 30 s at most."""
    async with asyncio.timeout(30):
        while not await query(http, url, expression):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def test_real_prometheus_accepts_everything(prometheus_url: str) -> None:
    """A real Prometheus has data for each panel after two scrapes, and evaluates each rule."""
    async with aiohttp.ClientSession() as http:
        await wait_until(http, prometheus_url, "changes(gateway_dtmf_total[1m]) >= 2")
        answers = {e: await query(http, prometheus_url, e) for e in dashboard_expressions()}
        await wait_until(http, prometheus_url, "gateway:setup_seconds:p95_5m > 0")
        await wait_until(http, prometheus_url, 'ALERTS{alertname="GatewayModelThrottled"}')
        async with http.get(f"{prometheus_url}/api/v1/rules") as reply:
            groups = (await reply.json())["data"]["groups"]
    assert [e for e, result in answers.items() if not result] == []
    assert len(answers) > 40
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert [rule["name"] for rule in evaluated if rule["health"] == "err"] == []
    assert len(evaluated) == len(rules())
