"""A set-up is looked at the way a call uses it; what is wrong is named, with how to mend it."""

import json
from pathlib import Path

import pytest

from gateway.audio import compiled
from gateway.check import ADVICE, Finding, look_at_settings, report
from gateway.simulator.faults import Faults
from gateway.simulator.server import Simulator, SimulatorOptions, start_simulator
from gateway.terminal import Terminal
from tests.referee import Dialect, check_client_event
from tests.running import (
    PREVIEW_VERSION,
    free_port,
    secrets_for,
    settings_for,
    with_agent,
)

Printed = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("version", "dialect"), [("", "ga"), (PREVIEW_VERSION, "preview")])
async def test_a_good_set_up_is_told_so(
    simulator: Simulator, capsys: Printed, version: str, dialect: Dialect
) -> None:
    """Model, credential, and a session that took the agent's options."""
    settings = settings_for(simulator, OPENAI_API_VERSION=version)

    assert await report(Terminal(), settings, is_offline=False) == 0
    printed = capsys.readouterr().out
    assert f"ok  model: Azure OpenAI at {simulator.url}, {dialect} dialect" in printed
    assert "ok  session: agent default: ready in" in printed
    assert "BAD" not in printed
    (event,) = simulator.sessions[0].received
    check_client_event(dialect, event)


async def test_every_agent_is_tried(simulator: Simulator, capsys: Printed) -> None:
    """One session for each, so that a bad option is found before a caller finds it."""
    settings = with_agent(settings_for(simulator))
    agents = dict.fromkeys(("default", "sales"), settings.agents["default"])

    several = settings.model_copy(update={"agents": agents})

    assert await report(Terminal(), several, is_offline=False) == 0
    assert capsys.readouterr().out.count("session: agent") == 2


@pytest.mark.parametrize(
    ("faults", "words", "advice"),
    [
        (Faults(http_status=401), "401", ADVICE["401"]),
        (Faults(http_status=404), "404", ADVICE["404"]),
        (Faults(http_status=429), "429", ADVICE["429"]),
        (Faults(http_status=503), "5xx", ADVICE["5xx"]),
        (Faults(handshake_delay_s=5), "timeout", ADVICE["timeout"]),
        (Faults(error_code="invalid_value", error_when="created"), "invalid_value", "[agents."),
        (Faults(close_code=1011, close_when="created"), "closed: 1011", "BAD"),
        (Faults(reject_code="model_not_found"), "model_not_found", "[agents."),
        (Faults(no_session_updated=True), "no session came up", "BAD"),
    ],
)
async def test_a_model_that_says_no_is_explained(
    capsys: Printed, faults: Faults, words: str, advice: str
) -> None:
    """The finding holds the service's words, and beneath it stands what to do."""
    simulator = await start_simulator(SimulatorOptions(faults=faults))
    try:
        settings = settings_for(simulator, GATEWAY_CONNECT_BUDGET_S="0.5")
        assert await report(Terminal(), settings, is_offline=False) == 1
    finally:
        await simulator.close()
    printed = capsys.readouterr().out
    (bad,) = (line for line in printed.splitlines() if line.startswith("BAD"))

    assert words in bad
    assert advice in printed


async def test_nobody_there_is_explained(simulator: Simulator, capsys: Printed) -> None:
    """Nothing listens at the endpoint: refused, with the advice to look at host and port."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    settings = settings_for(simulator, AZURE_OPENAI_ENDPOINT=endpoint)

    assert await report(Terminal(), settings, is_offline=False) == 1
    printed = capsys.readouterr().out
    assert "BAD session: refused" in printed
    assert ADVICE["refused"] in printed


async def test_an_unknown_deployment_is_explained(capsys: Printed) -> None:
    """The service's own 404, with the setting that is probably wrong."""
    simulator = await start_simulator(SimulatorOptions(models=("another",)))
    try:
        assert await report(Terminal(), settings_for(simulator), is_offline=False) == 1
    finally:
        await simulator.close()
    printed = capsys.readouterr().out

    assert "DeploymentNotFound" in printed
    assert "AZURE_OPENAI_DEPLOYMENT_NAME" in printed


async def test_json_says_the_same(simulator: Simulator, capsys: Printed) -> None:
    """One object with every finding, its advice and the warnings."""
    settings = settings_for(simulator, AZURE_OPENAI_ENDPOINT=f"http://127.0.0.1:{free_port()}")

    assert await report(Terminal(as_json=True), settings, is_offline=False) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["is_well"] is False
    assert [finding["name"] for finding in found["findings"]] == [
        *("model", "credential", "calls", "converter", "session")
    ]
    assert found["findings"][-1]["advice"] == ADVICE["refused"]
    assert any("GATEWAY_INSECURE" in warning for warning in found["warnings"])


async def test_offline_asks_nobody(simulator: Simulator, capsys: Printed) -> None:
    """Settings and credential only."""
    assert await report(Terminal(), settings_for(simulator), is_offline=True) == 0

    assert simulator.connections == 0
    assert "session" not in capsys.readouterr().out


def test_what_keeps_serve_from_starting_is_found_here_too(simulator: Simulator) -> None:
    """No secret of any provider: named, although the model would be reachable."""
    secrets = secrets_for("https://voice.example.com")
    without = secrets | dict.fromkeys(
        ("TWILIO_AUTH_TOKEN", "GATEWAY_ASTERISK_USERNAME", "GATEWAY_ASTERISK_PASSWORD"), ""
    )

    good = look_at_settings(settings_for(simulator, **secrets))
    bad = look_at_settings(settings_for(simulator, **without))
    assert all(finding.is_well for finding in good)
    assert [finding.name for finding in bad if not finding.is_well] == ["serving"]


def test_the_converter_is_named(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiled one all is well, and there is a line about how to spend less."""

    def finding() -> Finding:
        found = look_at_settings(settings_for(simulator))
        return next(finding for finding in found if finding.name == "converter")

    monkeypatch.setattr(compiled, "IS_BUILT", True)
    assert (finding().detail, finding().advice) == ("compiled", "")
    monkeypatch.setattr(compiled, "IS_BUILT", False)
    assert finding().is_well
    assert finding().detail == "numpy"
    assert "compiler" in finding().advice


def test_the_limit_and_where_it_comes_from_are_shown(simulator: Simulator, tmp_path: Path) -> None:
    """Set, measured or assumed; a certificate of TLS that cannot be used is found as well."""
    measured = tmp_path / "certificate.json"
    measured.write_text(
        '{"version": 1, "calls_per_core": 100, "gateway": "0.1.0", "measured_at": ""}'
    )
    environ = {"GATEWAY_CERTIFICATE": str(measured), "GATEWAY_WORKERS": "2"}

    def detail(**changes: str) -> str:
        findings = look_at_settings(settings_for(simulator, **changes))
        return next(finding.detail for finding in findings if finding.name == "calls")

    assert detail().startswith("at most 100 at the same time (the default")
    assert detail(GATEWAY_MAX_CALLS="7") == "at most 7 at the same time (GATEWAY_MAX_CALLS is set)"
    assert detail(**environ).startswith("at most 140 at the same time over 2 workers (GATEWAY_CER")
    broken = {name: str(measured) for name in ("GATEWAY_TLS_CERTIFICATE", "GATEWAY_TLS_KEY")}
    (bad,) = (f for f in look_at_settings(settings_for(simulator, **broken)) if not f.is_well)
    assert "not a usable PEM file" in bad.detail


def test_no_finding_shows_a_secret(simulator: Simulator) -> None:
    """Whatever is printed may be pasted into a ticket."""
    secrets = secrets_for("https://voice.example.com")
    settings = settings_for(simulator, AZURE_OPENAI_API_KEY="canary-key", **secrets)
    shown = str(look_at_settings(settings))

    assert all(secret not in shown for secret in settings.secret_values)
