"""A caller that phones a gateway over a provider's own protocol."""

import asyncio
import base64
import itertools
import math
import secrets
import socket as sockets
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp

from gateway.errors import PeerRefused
from gateway.simulator.asterisk_line import AsteriskCall, AsteriskLine
from gateway.simulator.callplan import CallAuth, CallPlan
from gateway.simulator.callreport import CallReport, turn_reports
from gateway.simulator.line import Line, Moment, MomentKind
from gateway.simulator.phone import Phone
from gateway.simulator.speech import FRAME_MS, Speech
from gateway.simulator.twilio_line import TwilioCall, TwilioLine
from gateway.simulator.twilio_webhook import (
    ConnectStream,
    read_answer,
    sign,
    signed_url,
    webhook_form,
)

_FRAME_S = FRAME_MS / 1000
_DIAL_TIMEOUT_S = 10.0
# A gateway that takes nothing for this long is dead.
_SEND_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 2.0
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_RECORD_LIMIT_MS = 600_000
# Sounds of the agent that are closer than this are one stretch of speech.
_SAME_STRETCH_S = 0.1
_TOLD: tuple[MomentKind, ...] = ("mark", "echo", "clear", "status", "hangup", "rejected")


async def place_call(
    url: str, plan: CallPlan, *, webhook_url: str | None = None, auth: CallAuth | None = None
) -> CallReport:
    """Phone a gateway and come back when the call is over.

    Args:
        url: The media WebSocket (ws, wss, http or https). With ``webhook_url`` it may be "": the
            URL that the webhook's answer names is used then.
        plan: What to do.
        webhook_url: Twilio's answer webhook, asked first when given.
        auth: Secrets to show.

    Raises:
        PeerRefused: nobody there, or the webhook or the upgrade was refused; says what was said.
    """
    auth = auth or CallAuth()
    call = _twilio_call(plan)
    async with aiohttp.ClientSession() as session:
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                stream = await _ring(session, webhook_url, plan, call, auth)
                socket = await _connect(session, url, plan, stream, auth)
        except aiohttp.WSServerHandshakeError as error:
            raise PeerRefused(f"the media socket was refused: {error.status}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PeerRefused(f"no answer: {error or type(error).__name__}") from error
        if stream is not None:
            call = replace(call, parameters=stream.parameters)
        return await _Caller(session, socket, plan, call).run()


def _twilio_call(plan: CallPlan) -> TwilioCall:
    sids = ("CA" + secrets.token_hex(16), "MZ" + secrets.token_hex(16))
    return TwilioCall(*sids, account_sid="AC" + "0" * 32, parameters=plan.parameters)


# ----------------------------------------------------------------- dialling


async def _ring(
    session: aiohttp.ClientSession,
    webhook_url: str | None,
    plan: CallPlan,
    call: TwilioCall,
    auth: CallAuth,
) -> ConnectStream | None:
    if webhook_url is None:
        return None
    form = webhook_form(plan, call)
    headers = {}
    if auth.twilio_token:
        shown_url = signed_url(webhook_url, auth.public_url)
        headers["X-Twilio-Signature"] = sign(auth.twilio_token, shown_url, form)
    async with session.post(webhook_url, data=form, headers=headers) as reply:
        return read_answer(reply.status, await reply.text())


async def _connect(
    session: aiohttp.ClientSession,
    url: str,
    plan: CallPlan,
    stream: ConnectStream | None,
    auth: CallAuth,
) -> aiohttp.ClientWebSocketResponse:
    is_asterisk = plan.provider == "asterisk"
    url = url or (stream.url if stream else "")
    url = _asterisk_url(url, plan) if is_asterisk else url
    return await session.ws_connect(
        url,
        headers=_asterisk_headers(auth) if is_asterisk else _twilio_headers(url, stream, auth),
        protocols=("media",) if is_asterisk else (),
        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
        max_msg_size=_MAX_MESSAGE_BYTES,
        compress=0,
    )


def _asterisk_url(url: str, plan: CallPlan) -> str:
    parts = urlsplit(url)
    added = urlencode({"from": plan.from_number, "to": plan.to_number, **plan.parameters})
    query = f"{parts.query}&{added}" if parts.query else added
    return urlunsplit(parts._replace(query=query))


def _asterisk_headers(auth: CallAuth) -> dict[str, str]:
    if not auth.username:
        return {}
    pair = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _twilio_headers(url: str, stream: ConnectStream | None, auth: CallAuth) -> dict[str, str]:
    if not auth.twilio_token:
        return {}
    # Twilio signs the address of the document; without one, the public address of ours.
    shown_url = stream.url if stream else signed_url(url, auth.public_url)
    if shown_url.startswith("http"):
        shown_url = "ws" + shown_url.removeprefix("http")
    return {"X-Twilio-Signature": sign(auth.twilio_token, shown_url)}


def _line(plan: CallPlan, call: TwilioCall) -> Line:
    if plan.provider == "twilio":
        return TwilioLine(call, plan.jitter_ms)
    channel = AsteriskCall(
        codec=plan.codec,
        is_json=plan.is_json,
        is_answered=plan.is_answered,
        channel_id=f"{secrets.randbelow(10**10)}.{secrets.randbelow(1000)}",
        variables=plan.variables,
    )
    return AsteriskLine(channel, plan.jitter_ms)


# ----------------------------------------------------------------- the call


class _Caller:
    """One call from the first message to the last; time is seconds since the first message."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        socket: aiohttp.ClientWebSocketResponse,
        plan: CallPlan,
        call: TwilioCall,
    ) -> None:
        self._session = session
        self._socket = socket
        self._plan = plan
        self._line = _line(plan, call)
        self._speech = Speech(plan.says, self._line.phone.audio, self._line.phone, 0.0)
        self._loop = asyncio.get_running_loop()
        self._started_at_s = self._loop.time()
        self._next_frame_s = 0.0
        self._keys = deque(sorted(plan.dtmf))
        self._pressed: list[str] = []
        self._sent = bytearray()
        self._sent_ms = 0
        self._outbox: deque[str | bytes] = deque()
        self._sending = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_over = False
        self._ended_by = "caller"
        self._ended_at_s = 0.0
        self._lateness_s = 0.0
        self._errors: list[str] = []

    async def run(self) -> CallReport:
        """Hold the call."""
        await self._send(self._line.start(0.0))
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            await self._talk()
            self._ended_at_s = self._now()
            await self._leave(reader)
            reader.cancel()
        return self._report()

    def _now(self) -> float:
        return (self._loop.time() - self._started_at_s) * self._plan.speed

    # ------------------------------------------------------------- what the gateway sends

    async def _read(self) -> None:
        async for message in self._socket:
            if isinstance(message.data, str | bytes):
                await self._send(self._line.receive(message.data, self._now()))
            if self._line.close_code is not None:
                break
            self._wake.set()
        self._is_over = True
        self._wake.set()

    # ------------------------------------------------------------- what the caller sends

    async def _talk(self) -> None:
        while not self._is_over:
            await self._sleep()
            now = self._now()
            await self._send([*self._line.advance(now), *self._frames(now)])
            if self._is_time_to_leave(now):
                return
        self._ended_by = "provider" if self._line.close_code not in (None, 1000) else "gateway"

    async def _sleep(self) -> None:
        timer_s = self._line.next_timer()
        due_s = min(self._next_frame_s, math.inf if timer_s is None else timer_s)
        self._wake.clear()
        try:
            async with asyncio.timeout_at(self._started_at_s + due_s / self._plan.speed):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _frames(self, now: float) -> Iterable[str | bytes]:
        """All frames due by ``now``: one, or more after a stall, as a line delivers them."""
        while self._next_frame_s <= now:
            self._lateness_s = max(self._lateness_s, now - self._next_frame_s)
            yield from self._keys_due()
            yield from self._frame()
            # Counted, not summed up: the schedule must not drift.
            self._sent_ms += FRAME_MS
            self._next_frame_s = self._sent_ms / 1000

    def _frame(self) -> list[str | bytes]:
        payload = self._speech.next_frame(self._next_frame_s)
        if self._sent_ms < _RECORD_LIMIT_MS:
            self._sent += payload
        return self._line.send_audio(payload, self._next_frame_s)

    def _keys_due(self) -> Iterable[str | bytes]:
        while self._keys and self._keys[0][0] <= self._next_frame_s:
            _, digit = self._keys.popleft()
            self._pressed.append(digit)
            yield from self._line.send_dtmf(digit, self._next_frame_s)

    async def _send(self, messages: Iterable[str | bytes]) -> None:
        """Send in the order in which messages were made, whoever made them."""
        self._outbox.extend(messages)
        async with self._sending:
            try:
                while self._outbox:
                    await self._write(self._outbox.popleft())
            except TimeoutError:
                self._errors.append(f"the gateway took nothing for {_SEND_TIMEOUT_S:g} s")
                self._give_up()
            except (aiohttp.ClientError, OSError):
                # The connection is gone: the reader learns it too, it is how a call can end.
                self._give_up()

    async def _write(self, message: str | bytes) -> None:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    def _give_up(self) -> None:
        self._outbox.clear()
        self._is_over = True

    # ------------------------------------------------------------- the end

    def _is_time_to_leave(self, now: float) -> bool:
        if now >= self._plan.hang_up_after_s:
            return True
        return self._plan.quiet_s > 0 and self._speech.is_quiet(self._plan.quiet_s, now)

    async def _leave(self, reader: asyncio.Task[None]) -> None:
        if self._ended_by != "caller":
            await self._socket.close(code=self._line.close_code or 1000)
        elif self._plan.hang_up == "abort":
            await self._reset()
        elif self._plan.hang_up == "freeze":
            reader.cancel()
            await asyncio.sleep(self._plan.freeze_s / self._plan.speed)
            await self._reset()
        else:
            await self._hang_up()

    async def _hang_up(self) -> None:
        if self._plan.hang_up != "close":
            await self._send(self._line.stop(self._now()))
        await self._socket.close()

    async def _reset(self) -> None:
        """Break the TCP connection: with a linger time of 0, closing sends RST."""
        tcp = self._socket.get_extra_info("socket")
        if tcp is not None:
            tcp.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        await self._session.close()
        # Nothing can be sent any more: this only lets go of what the library still holds.
        await self._socket.close()

    def _report(self) -> CallReport:
        line, phone = self._line, self._line.phone
        played_ms = phone.played_ms(self._ended_at_s)
        received = line.log.of("audio")
        return CallReport(
            provider=self._plan.provider,
            audio=phone.audio,
            duration_s=self._ended_at_s,
            sent=bytes(self._sent),
            sent_ms=self._sent_ms,
            played=phone.played[: round(played_ms * phone.audio.bytes_per_ms)],
            played_ms=played_ms,
            received_ms=sum(moment.amount_ms for moment in received),
            cleared_ms=phone.cleared_ms,
            dropped_ms=phone.dropped_ms,
            spans=tuple(phone.spans),
            turns=turn_reports(
                [(turn.starts_at_s, turn.ends_at_s) for turn in self._speech.turns],
                _stretches(phone),
            ),
            moments=_moments(line),
            dtmf=tuple(self._pressed),
            first_audio_s=received[0].at_s if received else None,
            close_code=self._socket.close_code or 1006,
            ended_by=self._ended_by,
            lateness_ms=self._lateness_s * 1000 / self._plan.speed,
            errors=tuple(self._errors),
        )


def _moments(line: Line) -> tuple[Moment, ...]:
    """Everything that passed but audio, in order."""
    kinds = itertools.chain.from_iterable(line.log.of(kind) for kind in _TOLD)
    return tuple(sorted(kinds, key=lambda moment: moment.at_s))


def _stretches(phone: Phone) -> list[tuple[float, float]]:
    """Start and end of each stretch of agent sound, short gaps closed."""
    stretches: list[tuple[float, float]] = []
    for span in phone.spans:
        ends_at_s = phone.ends_at_s(span)
        if stretches and span.starts_at_s - stretches[-1][1] < _SAME_STRETCH_S:
            stretches[-1] = (stretches[-1][0], ends_at_s)
        else:
            stretches.append((span.starts_at_s, ends_at_s))
    return stretches
