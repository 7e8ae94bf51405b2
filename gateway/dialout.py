"""Plays a WAV file as one caller or many, against any gateway that speaks a provider's protocol."""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args
from urllib.parse import urlsplit

from gateway.audio.wav import write_stereo_wav
from gateway.errors import PeerRefused, SettingsError
from gateway.simulator.asterisk_line import CODECS
from gateway.simulator.caller import place_call
from gateway.simulator.callplan import CallAuth, CallPlan, HangUp, Utterance, When
from gateway.simulator.callreport import CallReport
from gateway.terminal import Terminal

RATE_HZ = 24_000
# Calls of one command begin this far apart: a real line does not ring a hundred times at once.
SPREAD_S = 0.02
CALLS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asked for."""

    file: Path
    url: str
    provider: str = "twilio"
    calls: int = 1
    barge_in_s: float = 0.0
    keys: str = ""
    codec: str = "ulaw"
    hang_up: str = "stop"
    hang_up_after_s: float = 60.0
    out: Path | None = None


async def place_calls(terminal: Terminal, wishes: Wishes, environ: Mapping[str, str]) -> bool:
    """Place the calls and tell how they went; false when one of them did not come to its end.

    Secrets come from the same variables the gateway reads.

    Raises:
        SettingsError: a wish that cannot be met.
        AudioFileError: the WAV file cannot be used.
    """
    plan = _plan(wishes)
    auth = CallAuth(
        twilio_token=environ.get("TWILIO_AUTH_TOKEN", "").partition(",")[0],
        public_url=environ.get("GATEWAY_PUBLIC_URL", ""),
        username=environ.get("GATEWAY_ASTERISK_USERNAME", ""),
        password=environ.get("GATEWAY_ASTERISK_PASSWORD", ""),
    )
    with terminal.bar(f"{wishes.calls} call(s)", wishes.calls) as bar:

        async def one(number: int) -> CallReport | PeerRefused:
            await asyncio.sleep(number * SPREAD_S)
            try:
                return await _place(wishes, plan, auth)
            except PeerRefused as refused:
                return refused
            finally:
                bar.advance(1)

        outcomes = await asyncio.gather(*(one(number) for number in range(wishes.calls)))
    return _tell(terminal, wishes, outcomes)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


async def _place(wishes: Wishes, plan: CallPlan, auth: CallAuth) -> CallReport:
    base = wishes.url.rstrip("/")
    if wishes.provider == "twilio":
        return await place_call("", plan, webhook_url=f"{base}/twilio/voice", auth=auth)
    return await place_call(f"{base}/asterisk/media", plan, auth=auth)


def _plan(wishes: Wishes) -> CallPlan:
    if wishes.provider not in {"twilio", "asterisk"}:
        raise SettingsError([f"--provider: {wishes.provider}: accepted: twilio, asterisk"])
    if wishes.calls > CALLS_LIMIT:
        raise SettingsError([f"--calls: too many; accepted: 1 to {CALLS_LIMIT}"])
    if not _is_url(wishes.url):
        raise SettingsError(["--url: accepted: a URL such as http://127.0.0.1:8080"])
    if wishes.codec not in CODECS:
        raise SettingsError([f"--codec: accepted: {', '.join(CODECS)}"])
    if wishes.hang_up not in get_args(HangUp):
        raise SettingsError([f"--hang-up: accepted: {', '.join(get_args(HangUp))}"])
    if set(wishes.keys) - set("0123456789*#ABCD"):
        raise SettingsError(["--keys: accepted: 0-9 * # A-D"])
    moment = When("agent_starts", wishes.barge_in_s) if wishes.barge_in_s else When("agent_stops")
    return CallPlan(
        provider="twilio" if wishes.provider == "twilio" else "asterisk",
        says=(replace(Utterance.from_wav(str(wishes.file)), when=moment),),
        dtmf=tuple((float(second), key) for second, key in enumerate(wishes.keys, start=1)),
        codec=wishes.codec,
        hang_up=cast("HangUp", wishes.hang_up),
        hang_up_after_s=wishes.hang_up_after_s,
        quiet_s=1.5,
    )


def _tell(terminal: Terminal, wishes: Wishes, outcomes: Sequence[CallReport | PeerRefused]) -> bool:
    reports = [outcome for outcome in outcomes if isinstance(outcome, CallReport)]
    refusals = [str(outcome) for outcome in outcomes if isinstance(outcome, PeerRefused)]
    for words in sorted(set(refusals)):
        terminal.say(f"refused ({refusals.count(words)}): {words}")
    if reports:
        terminal.table(_figures(reports))
    if reports and wishes.out is not None:
        terminal.say(f"first call: {_write(wishes.out, reports[0])}")
    errors = [error for report in reports for error in report.errors]
    for error in errors[:10]:
        terminal.say(f"error: {error}")
    terminal.result(
        {
            "placed": len(outcomes),
            "refused": refusals,
            "errors": errors,
            "calls": [_as_json(report) for report in reports],
        }
    )
    cut = [report for report in reports if report.ended_by == "gateway"]
    if cut and wishes.hang_up != "agent":
        terminal.say(f"ended by the gateway: {len(cut)} (see its call_ended lines for the reason)")
        return False
    return not refusals and not errors


def _figures(reports: Sequence[CallReport]) -> list[tuple[str, str]]:
    firsts = [report.first_audio_s for report in reports if report.first_audio_s is not None]
    answers = [
        turn.answered_after_s
        for report in reports
        for turn in report.turns
        if turn.answered_after_s is not None
    ]
    stops = [stop for report in reports for stop in report.barge_in_s]
    return [
        ("calls that came to their end", str(len(reports))),
        ("agent heard in", f"{len(firsts)} of them"),
        ("first sound of the agent", _spread(firsts)),
        ("answer after the caller's last word", _spread(answers)),
        ("agent still heard after an interruption", _spread(stops)),
        ("our own lateness, worst", f"{max(report.lateness_ms for report in reports):.1f} ms"),
    ]


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{statistics.median(seconds) * 1000:.0f} ms (worst {max(seconds) * 1000:.0f} ms)"


def _write(folder: Path, report: CallReport) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "call.wav"
    write_stereo_wav(path, *report.tracks(RATE_HZ), RATE_HZ)
    return path


def _as_json(report: CallReport) -> dict[str, object]:
    return {
        "duration_s": report.duration_s,
        "sent_ms": report.sent_ms,
        "played_ms": report.played_ms,
        "first_audio_s": report.first_audio_s,
        "answered_after_s": [turn.answered_after_s for turn in report.turns],
        "barge_in_s": list(report.barge_in_s),
        "close_code": report.close_code,
        "ended_by": report.ended_by,
    }
