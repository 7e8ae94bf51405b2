"""What can be wrong before the first call (P56 to P61), each case a test.

P61's runs on other Pythons are the CI's; here the golden bytes are compared on the one at hand.
"""

import asyncio
import hashlib
import os
import socket
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.audio.g711 import decode_alaw, decode_ulaw, encode_alaw, encode_ulaw
from gateway.events import PromptPlayed, RealtimeDialled
from tests.faults.conftest import OpenScene

COMPLETE = {
    "AZURE_OPENAI_ENDPOINT": "https://example.openai.azure.com",
    "AZURE_OPENAI_DEPLOYMENT_NAME": "voice",
    "AZURE_OPENAI_API_KEY": "canary-key",
    "TWILIO_AUTH_TOKEN": "canary-token",
    "GATEWAY_PUBLIC_URL": "https://voice.example.com",
    "GATEWAY_HOST": "127.0.0.1",
    "GATEWAY_PORT": "0",
    "GATEWAY_OPS_PORT": "0",
}
# Every mu-law and A-law code to linear, and back.
GOLDEN = "a177b4d02c3ba8e595e68883cbe0823b81a71ca710fada0761625eab9a348648"
# Starting Python with all imports takes a second on a machine that is busy.
STARTS_WITHIN_S = 20.0


@dataclass(frozen=True)
class Exit:
    """How a command ended."""

    code: int
    text: str
    took_s: float


async def _gateway(*arguments: str, **environ: str) -> Exit:
    """Run the real command in a process of its own, with nothing but these settings."""
    path = {"PATH": os.environ.get("PATH", "")}
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        env=path | {name: value for name, value in environ.items() if value},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(STARTS_WITHIN_S):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        told, _ = await process.communicate()
    assert process.returncode is not None
    return Exit(process.returncode, told.decode(), time.monotonic() - began)


async def test_p56_missing_settings() -> None:
    """Without any one required setting it exits with 2 and one line that says how to set it."""
    required = (
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_DEPLOYMENT_NAME",
        "TWILIO_AUTH_TOKEN",
        "GATEWAY_PUBLIC_URL",
    )
    exits = await asyncio.gather(
        *(_gateway("serve", **(COMPLETE | {missing: ""})) for missing in required)
    )

    for missing, ended in zip(required, exits, strict=True):
        (line,) = ended.text.splitlines()
        assert ended.code == 2, line
        assert line.startswith(f"gateway: {missing}: not set")
        assert "set it to" in line or "set one of them" in line
        assert "canary" not in line


async def test_p57_malformed_values() -> None:
    """Every bad value is named with what is accepted, all at once, and no value is repeated."""
    bad = {
        "GATEWAY_PORT": "abc",
        "GATEWAY_MAX_CALLS": "-5551",
        "GATEWAY_SEND_TIMEOUT_S": "0",
        "AZURE_OPENAI_ENDPOINT": "http://canary.example.com",
        "GATEWAY_PUBLIC_URL": "canary.example.com/without-scheme",
    }
    ended = await _gateway("serve", **(COMPLETE | bad))

    lines = ended.text.splitlines()
    assert ended.code == 2
    assert {line.split(": ")[1] for line in lines} == set(bad)
    assert all("accepted: " in line for line in lines)
    assert not [value for value in ("abc", "5551", "canary") if value in ended.text]


async def test_p58_no_proof_of_origin(open_scene: OpenScene) -> None:
    """Without any provider's secret it refuses to start; told to be insecure it says so."""
    ended = await _gateway("serve", **(COMPLETE | {"TWILIO_AUTH_TOKEN": ""}))
    assert ended.code == 2
    assert "GATEWAY_INSECURE=1" in ended.text

    scene = await open_scene(has_bystander=False, GATEWAY_INSECURE="1", TWILIO_AUTH_TOKEN="")
    assert scene.metric("insecure_mode") == 1
    assert any("GATEWAY_INSECURE" in warning for warning in scene.gateway.settings.warnings)


async def test_p59_wrong_deployment(open_scene: OpenScene) -> None:
    """A deployment that does not exist is asked for once a call, and `gateway check` names it."""
    scene = await open_scene(has_bystander=False, models=("another",))

    outcome = await scene.call(hang_up="agent", hang_up_after_s=6.0)
    settings = scene.gateway.settings
    told = {
        "AZURE_OPENAI_ENDPOINT": settings.azure_openai_endpoint,
        "AZURE_OPENAI_DEPLOYMENT_NAME": settings.azure_openai_deployment_name,
        "AZURE_OPENAI_API_KEY": "canary-key-of-the-model",
    }
    ended = await _gateway("check", **(COMPLETE | told))

    assert [prompt.name for prompt in outcome.told(PromptPlayed)] == ["apology"]
    assert [dialled.result for dialled in outcome.told(RealtimeDialled)] == ["404"]
    assert outcome.reason == "realtime_unavailable"
    assert ended.code == 1
    assert "DeploymentNotFound" in ended.text
    assert "AZURE_OPENAI_DEPLOYMENT_NAME" in ended.text
    assert "canary" not in ended.text


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "GATEWAY_OPS_PORT"])
async def test_p60_port_in_use(variable: str) -> None:
    """A port that somebody has ends the start with the address in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await _gateway("serve", **(COMPLETE | {variable: str(port)}))

    assert ended.code == 1
    assert f"127.0.0.1:{port}" in ended.text or f"('127.0.0.1', {port})" in ended.text
    assert "Traceback" not in ended.text
    assert ended.took_s < 5.0


def test_p61_golden_audio() -> None:
    """G.711 gives the same bytes on every Python, and audioop-lts is asked for where it exists."""
    codes = bytes(range(256))
    digest = hashlib.sha256()
    for decode, encode in ((decode_ulaw, encode_ulaw), (decode_alaw, encode_alaw)):
        pcm = decode(codes)
        digest.update(pcm + encode(pcm))

    assert digest.hexdigest() == GOLDEN
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    (audioop,) = [need for need in project["dependencies"] if need.startswith("audioop-lts")]
    assert audioop.endswith("; python_version >= '3.13'")
