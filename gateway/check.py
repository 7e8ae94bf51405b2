"""Is this set-up going to work: settings, credential, and one session that takes our options."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from gateway.audio.convert import converter_name
from gateway.errors import ConnectError, SettingsError
from gateway.events import ConfigureSession, RealtimeError, SessionUpdated
from gateway.realtime import Link
from gateway.realtime.connection import dial, target_from
from gateway.realtime.inbox import messages
from gateway.realtime.protocol import RealtimeProtocol
from gateway.settings import Agent, Settings
from gateway.terminal import Terminal
from gateway.tls import server_tls

# What to do about each way of not getting through.
ADVICE: Final[Mapping[str, str]] = {
    "refused": "nothing listens there: check the endpoint's host and port, and your firewall",
    "timeout": "no answer in time: check the network, a proxy or private endpoint in between",
    "dns": "the host name does not exist: check the endpoint's spelling",
    "tls": "the certificate is not trusted: check the host name, and the system's certificates",
    "token": "no Entra token: run `az login`, or give this machine a managed identity",
    "400": "the service does not take such a session: check OPENAI_API_VERSION and the model",
    "401": "the credential is not accepted: check the key, or for keyless that the role "
    "'Cognitive Services OpenAI User' is assigned on the resource",
    "403": "not allowed: check the role, network rules, and private endpoints of the resource",
    "404": "no such deployment: check AZURE_OPENAI_DEPLOYMENT_NAME, and leave OPENAI_API_VERSION "
    "unset for GA deployments",
    "429": "the quota is used up: wait, or raise the deployment's tokens per minute",
    "5xx": "the service has a problem: try again later",
}

_SLOWER: Final = (
    "calls cost more CPU than they need to: reinstall where there is a C compiler "
    "(Debian: apt-get install gcc libc6-dev python3-dev)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``advice`` says how to mend it when it is not well."""

    name: str
    is_well: bool
    detail: str
    advice: str = ""


async def report(terminal: Terminal, settings: Settings, *, is_offline: bool) -> int:
    """Print every finding; returns the exit code: 2 for bad settings, 1 for a bad session."""
    findings = look_at_settings(settings)
    code = 0 if all(finding.is_well for finding in findings) else 2
    for agent in () if is_offline else settings.agents.values():
        findings.append(await look_at_model(settings, agent))
        code = code or int(not findings[-1].is_well)
        if findings[-1].advice in ADVICE.values():
            # The next agent would meet the same closed door.
            break
    for finding in findings:
        terminal.say(f"{'ok ' if finding.is_well else 'BAD'} {finding.name}: {finding.detail}")
        if finding.advice:
            terminal.say(f"    {finding.advice}")
    for warning in settings.warnings:
        terminal.say(f"warning: {warning}")
    terminal.result(
        {
            "is_well": code == 0,
            "findings": [asdict(finding) for finding in findings],
            "warnings": list(settings.warnings),
        }
    )
    return code


def look_at_settings(settings: Settings) -> list[Finding]:
    """What can be said without asking anybody."""
    service = "Azure OpenAI" if settings.uses_azure else "OpenAI"
    where = settings.azure_openai_endpoint or settings.openai_base_url
    findings = [
        Finding("model", is_well=True, detail=f"{service} at {where}, {settings.dialect} dialect"),
        Finding("credential", is_well=True, detail=settings.credential_reason),
        Finding("calls", is_well=True, detail=_limit(settings)),
        _look_at_converter(),
    ]
    problems = settings.problems_for_serving() or _tls_problems(settings)
    return findings + [Finding("serving", is_well=False, detail=problem) for problem in problems]


def _look_at_converter() -> Finding:
    name = converter_name()
    advice = "" if name == "compiled" else _SLOWER
    return Finding("converter", is_well=True, detail=name, advice=advice)


def _limit(settings: Settings) -> str:
    workers = f" over {settings.workers} workers" if settings.workers > 1 else ""
    return f"at most {settings.call_limit} at the same time{workers} ({settings.call_limit_reason})"


def _tls_problems(settings: Settings) -> list[str]:
    try:
        server_tls(settings)
    except SettingsError as error:
        return list(error.problems)
    return []


async def look_at_model(settings: Settings, agent: Agent) -> Finding:
    """Open a session the way a call does, and see whether it takes the agent's options."""
    target = target_from(settings)
    began = time.monotonic()
    try:
        link = await dial(target, timeout_s=settings.connect_budget_s)
    except ConnectError as error:
        advice = ADVICE.get(error.result, "")
        return Finding("session", is_well=False, detail=str(error), advice=advice)
    finally:
        await target.auth.close()
    try:
        async with asyncio.timeout(settings.connect_budget_s):
            return await _configure(settings, agent, link, began)
    except TimeoutError:
        return Finding("session", is_well=False, detail="connected, but no session came up")
    finally:
        await link.close()


async def _configure(settings: Settings, agent: Agent, link: Link, began: float) -> Finding:
    protocol = RealtimeProtocol(settings.dialect)
    # Who closes at once has said why, and that is still to be read.
    with suppress(ConnectionError):
        for request in protocol.send(ConfigureSession(agent.session_options(settings.dialect))):
            link.send(request)
    async for message in messages(link):
        for event in protocol.receive(message):
            if isinstance(event, SessionUpdated):
                took_ms = (time.monotonic() - began) * 1000
                return Finding(
                    "session", is_well=True, detail=f"agent {agent.name}: ready in {took_ms:.0f} ms"
                )
            if isinstance(event, RealtimeError):
                return Finding(
                    "session",
                    is_well=False,
                    detail=f"agent {agent.name}: {event.code}: {event.message}",
                    advice=f"check the settings of [agents.{agent.name}]",
                )
    return Finding(
        "session", is_well=False, detail=f"closed: {link.close_code} {link.close_reason}"
    )
