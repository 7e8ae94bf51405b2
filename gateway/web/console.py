"""The console: calls now and lately, the page of a call, hanging up, listening in.

A page is told of changes by server-sent events. Nothing is queued for it: every ``LIVE_EVERY_S`` it
gets what changed since it was last told, in one piece, and one that takes a piece too slowly is let
go. What is shown of ended calls that the roster has forgotten comes from the database.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from gateway.events import AudioFormat, CallBegan, Fact
from gateway.web import CALL_OVER, RIGHT, SESSION, TOO_SLOW, Area, Route, who
from gateway.web.reports import ReportsBusy
from gateway.web.roster import CallRecord, Roster, details, summary
from gateway.web.shelf import Shelf, ShelfUnavailable, StoredCall
from gateway.web.tap import Ear, TappedStream

# How often a page is told: of one call, of all calls.
LIVE_EVERY_S: Final = 0.25
LIST_EVERY_S: Final = 0.5
LISTEN_EVERY_S: Final = 0.1
# A page that takes nothing for so long is gone.
TAKE_S: Final = 5.0
# A sign of life, so that proxies keep the line; and after this long a page has to ask anew, with
# whatever rights it still has.
ALIVE_EVERY_S: Final = 15.0
VIEW_LIFE_S: Final = 600.0
MAX_VIEWS: Final = 100
MAX_LISTENERS: Final = 16
MAX_ROWS: Final = 200
MAX_QUERY_CHARS: Final = 64
# Made before calls get their turn: 200 at once held them up for 2 ms and more.
ROWS_AT_ONCE: Final = 16

# A report is one file with all that belongs to it; it is nobody's page, and reaches nobody.
REPORT_POLICY: Final = "sandbox allow-scripts; frame-ancestors 'none'; "
MAX_MADE_ROWS: Final = 4 * MAX_ROWS
_NOTHING: Final = msgspec.Raw(b"null")
_NO_DATABASE: Final = "the database does not answer\n"
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_log: Final = structlog.get_logger("gateway")
_json: Final = msgspec.json.Encoder()
_Made = TypeVar("_Made")
_Row = Mapping[str, Any]


class _Taped(msgspec.Struct):
    """Of a call in the database, what matters here."""

    has_tape: bool = False


_taped: Final = msgspec.json.Decoder(_Taped).decode


class Telling(Protocol):
    """What the console counts; ``gateway.metrics.Metrics`` does it."""

    def view_opened(self) -> None:
        """A page is told of calls from now on."""

    def view_closed(self, *, is_dropped: bool) -> None:
        """It is not any more."""

    def listening_began(self) -> None:
        """Somebody listens in."""

    def listening_ended(self, result: str) -> None:
        """Nobody does any more."""

    def listening_refused(self) -> None:
        """Somebody must not."""

    def hung_up_by_hand(self) -> None:
        """Somebody ended a call."""


@dataclass(slots=True)
class OpenLine:
    """A call that is going on, as far as the console can reach into it."""

    hang_up: Callable[[], None]
    tap: TappedStream | None = None
    has_tape: bool = False
    audio_in: AudioFormat | None = None
    audio_out: AudioFormat | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say.

    ``may_listen``: calls can be listened to. ``keeps_words``: transcripts go into the database.
    ``report``: makes the report of a call's tape, or raises ``ReportsBusy``; None = no tapes.
    ``report_policy``: what such a page may load and run (Content-Security-Policy).
    """

    may_listen: bool = False
    keeps_words: bool = False
    report: Callable[[str], Awaitable[bytes | None]] | None = None
    report_policy: str = "default-src 'none'"


@dataclass(slots=True)
class Console:
    """All calls of a process, for the pages."""

    telling: Telling
    rules: Rules = field(default_factory=Rules)
    shelf: Shelf | None = None
    clock: Callable[[], float] = time.time
    roster: Roster = field(default_factory=Roster)
    lines: dict[str, OpenLine] = field(default_factory=dict)
    rows: dict[str, tuple[int, msgspec.Raw]] = field(default_factory=dict)
    views: int = 0
    listeners: int = 0

    def observe(self, call_id: str, fact: Fact) -> None:
        """One fact of a call; to be put among ``gateway.observers``."""
        record = self.roster.observe(call_id, fact, self.clock())
        if record is not None:
            self._keep(record)
        elif isinstance(fact, CallBegan):
            self._began(call_id, fact)

    def _began(self, call_id: str, fact: CallBegan) -> None:
        line = self.lines.get(call_id)
        if line is not None:
            line.audio_in, line.audio_out = fact.audio_in, fact.audio_out
            if line.has_tape:
                self.roster.has_tape(call_id)

    def _keep(self, record: CallRecord) -> None:
        if self.shelf is not None:
            self.shelf.put(stored(record, keeps_words=self.rules.keeps_words))

    def adopt(self, record: CallRecord) -> None:
        """Take in, and keep, a call that ended elsewhere."""
        self.roster.adopt(record)
        self._keep(record)

    def forget(self, call_id: str) -> bool:
        """Know nothing of a call that ended; whether anything was known."""
        self.rows.pop(call_id, None)
        return self.roster.forget(call_id)

    def open(self, call_id: str, line: OpenLine) -> None:
        """A call is reachable from now on."""
        self.lines[call_id] = line

    def close(self, call_id: str) -> None:
        """It is over."""
        line = self.lines.pop(call_id, None)
        if line is not None and line.tap is not None:
            line.tap.end()

    def area(self) -> Area:
        """The page and its data."""
        routes = (
            Route("GET", "/console/calls", self._list),
            Route("GET", "/console/live", self._live),
            Route("GET", "/console/calls/{id}", self._call),
            Route("DELETE", "/console/calls/{id}", self._forget, "operator"),
            Route("GET", "/console/calls/{id}/live", self._call_live),
            Route("POST", "/console/calls/{id}/hang-up", self._hang_up, "operator"),
            Route("GET", "/console/calls/{id}/listen", self._listen, "listener"),
            Route("GET", "/console/calls/{id}/tape", self._tape, "operator"),
        )
        return Area("/console", "Calls", "console.html", routes)

    # ------------------------------------------------------------- many calls

    async def _list(self, request: web.Request) -> web.Response:
        """Calls that are known here and in the database, those with a text in an id."""
        text = wanted_text(request)
        rows = await self._few_at_a_time(self.roster.find(text, MAX_ROWS), summary)
        listed = await self.listed(text, rows)
        return data({**self._frame(), **listed})

    async def listed(
        self, text: str, known: Iterable[_Row], less_known: Iterable[_Row] = ()
    ) -> dict[str, Any]:
        """The latest of the rows that are known and those of the database.

        Args:
            text: to be found in the database, in an id.
            known: the database is behind these.
            less_known: the database is ahead of these.
        """
        kept, problem = await self._kept(text)
        rows = {row["call_id"]: row for row in chain(less_known, kept, known)}
        latest = sorted(rows.values(), key=lambda row: row["began_at"], reverse=True)
        return {"problem": problem, "calls": latest[:MAX_ROWS]}

    async def _kept(self, text: str) -> tuple[list[_Row], str]:
        """Rows of the database, and what is wrong with it."""
        if self.shelf is None:
            return [], ""
        try:
            return [msgspec.json.decode(row) for row in await self.shelf.latest(MAX_ROWS, text)], ""
        except ShelfUnavailable:
            return [], "The database does not answer: older calls are not shown."

    def _frame(self) -> dict[str, Any]:
        """What every answer about calls says."""
        return {"now": self.clock(), "version": self.roster.version}

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """What changes on any call, as rows; all that is known first."""
        seen = 0

        async def news() -> bytes | None:
            nonlocal seen
            frame, changed = self._frame(), await self._changed(seen)
            if not changed and seen:
                return None
            seen = max(1, frame["version"])
            return _json.encode({**frame, "calls": changed})

        return await self.tell(request, news, LIST_EVERY_S)

    async def rows_since(self, seen: int) -> bytes:
        """The same for a supervisor that asks: the number to ask with next time, and rows."""
        version = self.roster.version
        return _json.encode({"version": version, "calls": await self._changed(seen)})

    async def _changed(self, seen: int) -> list[msgspec.Raw]:
        """Rows of calls that changed after this number: all that go on, the latest that ended.

        Rows of what is known now, or newer ones: calls get their turn while they are made.
        """
        changed = self.roster.changed_since(seen)
        ended = [record for record in changed if record.ended_at is not None]
        shown = [record for record in changed if record.ended_at is None] + ended[:MAX_ROWS]
        return await self._few_at_a_time(shown, self._row)

    async def _few_at_a_time(
        self, records: list[CallRecord], make: Callable[[CallRecord], _Made]
    ) -> list[_Made]:
        """A row of each, calls served in between; none of one that was erased meanwhile."""
        made: list[tuple[CallRecord, _Made]] = []
        for start in range(0, len(records), ROWS_AT_ONCE):
            await asyncio.sleep(0)
            batch = records[start : start + ROWS_AT_ONCE]
            made += [(record, make(record)) for record in batch if self._knows(record)]
        return [row for record, row in made if self._knows(record)]

    def _knows(self, record: CallRecord) -> bool:
        return self.roster.get(record.call_id) is record

    def _row(self, record: CallRecord) -> msgspec.Raw:
        """A row of the list, made once for all pages that show it."""
        made_at, row = self.rows.get(record.call_id, (0, _NOTHING))
        if made_at != record.changed:
            row = msgspec.Raw(_json.encode(summary(record)))
            self.rows[record.call_id] = record.changed, row
        if len(self.rows) > MAX_MADE_ROWS:
            self.rows.clear()
        return row

    # ------------------------------------------------------------- one call

    async def _call(self, request: web.Request) -> web.Response:
        call_id = call_id_of(request)
        record = self.roster.get(call_id)
        if record is not None:
            return data(self._page(request, record, 0))
        kept = await self._kept_call(call_id)
        if kept is None:
            raise web.HTTPNotFound(text="no such call\n")
        may = self._may_with_ended(request, has_tape=_taped(kept).has_tape)
        return data({**self._frame(), **may, "call": msgspec.Raw(kept)})

    def _may_with_ended(self, request: web.Request, *, has_tape: bool) -> dict[str, bool]:
        """What whoever asks can do with a call that ended."""
        may_act = request[SESSION].may("operator")
        return {
            "can_erase": may_act,
            "has_report": may_act and has_tape and self.rules.report is not None,
        }

    async def _kept_call(self, call_id: str) -> bytes | None:
        try:
            kept = await self.shelf.details(call_id) if self.shelf else None
        except ShelfUnavailable:
            raise web.HTTPServiceUnavailable(text=_NO_DATABASE) from None
        return None if kept is None else kept.encode()

    def _page(self, request: web.Request, record: CallRecord, since: int) -> dict[str, Any]:
        line = self.lines.get(record.call_id)
        is_live = line is not None and record.ended_at is None
        can_listen = is_live and line is not None and line.tap is not None
        may = request[SESSION].may
        ended = {"can_erase": False, "has_report": False}
        if record.ended_at is not None:
            ended = self._may_with_ended(request, has_tape=record.has_tape)
        return {
            **self._frame(),
            **ended,
            "call": details(record, since),
            "can_hang_up": is_live and may("operator"),
            "can_listen": can_listen and may("listener"),
            "is_listening_allowed": self.rules.may_listen,
            "listeners": line.tap.listeners if line and line.tap else 0,
        }

    async def _call_live(self, request: web.Request) -> web.StreamResponse:
        """What changes on one call: all of it, of its lines those that changed."""
        record = self.roster.get(call_id_of(request))
        if record is None:
            raise web.HTTPNotFound(text="no such call\n")
        # Who reads along, with the listeners, whose number no fact tells.
        seen, listeners = 0, -1

        async def news() -> bytes | None:
            nonlocal seen, listeners
            line = self.lines.get(record.call_id)
            now_listening = line.tap.listeners if line and line.tap else 0
            if record.changed == seen and now_listening == listeners:
                return None
            page = self._page(request, record, seen)
            seen, listeners = record.changed, now_listening
            return _json.encode(page)

        return await self.tell(request, news)

    async def _hang_up(self, request: web.Request) -> web.Response:
        call_id = call_id_of(request)
        line = self.lines.get(call_id)
        if line is None:
            raise web.HTTPNotFound(text="no such call is going on\n")
        _log.warning("call_hung_up", call_id=call_id, **_who(request))
        self.telling.hung_up_by_hand()
        line.hang_up()
        return web.Response(status=204)

    async def _forget(self, request: web.Request) -> web.Response:
        """Erase what is known of a call that ended, here and in the database."""
        call_id = call_id_of(request)
        if call_id in self.lines:
            raise web.HTTPConflict(text="the call is still going on\n")
        was_known = self.forget(call_id)
        if self.shelf is not None:
            try:
                was_known = await self.shelf.forget(call_id) or was_known
            except ShelfUnavailable:
                raise web.HTTPServiceUnavailable(text=_NO_DATABASE) from None
        if not was_known:
            raise web.HTTPNotFound(text="no such call\n")
        _log.info("call_erased", call_id=call_id, **_who(request))
        return web.Response(status=204)

    async def _tape(self, request: web.Request) -> web.Response:
        call_id = call_id_of(request)
        report = self.rules.report
        try:
            page = await report(call_id) if report else None
        except ReportsBusy:
            text = "too many wait for a report; try again in a minute\n"
            raise web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "60"}) from None
        if page is None:
            raise web.HTTPNotFound(text="no whole tape of this call\n")
        response = web.Response(body=BytesIO(page), content_type="text/html", charset="utf-8")
        response.headers["Content-Security-Policy"] = REPORT_POLICY + self.rules.report_policy
        # A browser shows no sandboxed page that asks for a group of its own (HTML, "navigate").
        response.headers["Cross-Origin-Opener-Policy"] = "unsafe-none"
        return response

    # ------------------------------------------------------------- telling a page

    async def tell(
        self,
        request: web.Request,
        news: Callable[[], Awaitable[bytes | None]],
        every_s: float = LIVE_EVERY_S,
    ) -> web.StreamResponse:
        """Server-sent events of what ``news`` has, until the page is gone or too slow."""
        is_over = request[RIGHT].is_over
        return await self.view(request, lambda page: _tell(page, news, every_s, is_over))

    async def view(
        self, request: web.Request, telling: Callable[[web.StreamResponse], Awaitable[None]]
    ) -> web.StreamResponse:
        """A page that is told of calls as long as ``telling`` lasts; let go when it is too slow.

        Raises:
            HTTPServiceUnavailable: too many are.
        """
        if self.views >= MAX_VIEWS:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.headers["X-Accel-Buffering"] = "no"
        self.views += 1
        self.telling.view_opened()
        is_dropped = False
        try:
            await response.prepare(request)
            await telling(response)
        except TimeoutError:
            is_dropped = True
            _abort(request)
        except ConnectionError:
            pass
        finally:
            self.views -= 1
            self.telling.view_closed(is_dropped=is_dropped)
        return response

    # ------------------------------------------------------------- listening in

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        tap, forms = self._tap_of(call_id_of(request))
        socket = web.WebSocketResponse(heartbeat=10.0, compress=False, max_msg_size=1024)
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response()  # to nobody: the page has gone already
        ear = Ear()
        async with self._listening(request, tap, ear) as outcome:
            await socket.send_str(forms)
            outcome["result"] = await _let_hear(request, socket, ear)
        return socket

    def _tap_of(self, call_id: str) -> tuple[TappedStream, str]:
        """Where to listen, and what the sound is.

        Raises:
            HTTPException: the call is over, not to be listened to, or listened to by too many.
        """
        line = self.lines.get(call_id)
        if line is None or line.audio_in is None or line.audio_out is None:
            raise web.HTTPNotFound(text="no such call is going on\n")
        if line.tap is None:
            self.telling.listening_refused()
            raise web.HTTPForbidden(text="GATEWAY_LISTEN_IN is off\n")
        if self.listeners >= MAX_LISTENERS:
            self.telling.listening_refused()
            raise web.HTTPServiceUnavailable(text="too many listen in\n")
        return line.tap, _text({"caller": _form(line.audio_in), "agent": _form(line.audio_out)})

    @asynccontextmanager
    async def _listening(
        self, request: web.Request, tap: TappedStream, ear: Ear
    ) -> AsyncIterator[dict[str, str]]:
        """An ear at the call, told of in log and metrics from its beginning to its end."""
        outcome, began = {"result": "ended"}, self.clock()
        log = _log.bind(call_id=call_id_of(request), **_who(request))
        log.warning("listen_in_began")
        self.listeners += 1
        self.telling.listening_began()
        tap.add(ear)
        try:
            yield outcome
        except ConnectionError:
            pass
        finally:
            tap.remove(ear)
            self.listeners -= 1
            self.telling.listening_ended(outcome["result"])
            log.info("listen_in_ended", duration_s=round(self.clock() - began, 3), **outcome)


def stored(record: CallRecord, *, keeps_words: bool) -> StoredCall:
    """What the database keeps of a call that ended."""
    known, row = details(record), summary(record)
    if not keeps_words:
        known |= {"lines": [], "lines_dropped": 0, "words_not_kept": True}
        row |= {"last_words": ""}
    return StoredCall(
        call_id=record.call_id,
        provider_call_id=record.provider_call_id,
        began_at=record.began_at,
        ended_at=record.ended_at or record.began_at,
        provider=record.provider,
        agent=record.agent,
        result=record.result,
        reason=record.reason,
        summary=_text(row),
        details=_text(known),
    )


def _text(value: Mapping[str, Any]) -> str:
    return _json.encode(value).decode()


def data(value: Mapping[str, Any]) -> web.Response:
    """An answer that a page reads."""
    return web.Response(body=_json.encode(value), content_type="application/json")


def _form(audio: AudioFormat) -> dict[str, Any]:
    return {"encoding": audio.encoding, "rate_hz": audio.rate_hz}


def wanted_text(request: web.Request) -> str:
    """What a list of calls is searched for; "" = all."""
    return request.query.get("q", "")[:MAX_QUERY_CHARS].strip()


def call_id_of(request: web.Request) -> str:
    """Of the path; what cannot be one of ours is not even looked for."""
    call_id = request.match_info["id"]
    if not _CALL_ID.fullmatch(call_id):
        raise web.HTTPNotFound(text="no such call\n")
    return call_id


def _who(request: web.Request) -> dict[str, str]:
    return who(request, request[SESSION])


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _tell(
    response: web.StreamResponse,
    news: Callable[[], Awaitable[bytes | None]],
    every_s: float,
    is_over: Callable[[], bool],
) -> None:
    """For ``VIEW_LIFE_S``, or until the right to it is over.

    Raises:
        TimeoutError: the page takes nothing.
        ConnectionError: it is gone.
    """
    loop = asyncio.get_running_loop()
    until, told_at = loop.time() + VIEW_LIFE_S, loop.time()
    while (now := loop.time()) < until and not is_over():
        piece = await news()
        if piece is None and now - told_at >= ALIVE_EVERY_S:
            await take(response, b": still here\n\n")
            told_at = now
        elif piece is not None:
            await take(response, b"data: " + piece + b"\n\n")
            told_at = now
        await asyncio.sleep(every_s)


async def take(response: web.StreamResponse, piece: bytes) -> None:
    """Let a page take a piece, for so long as one that is there needs.

    Raises:
        TimeoutError: it takes nothing.
        ConnectionError: it is gone.
    """
    async with asyncio.timeout(TAKE_S):
        await response.write(piece)


async def _let_hear(request: web.Request, socket: web.WebSocketResponse, ear: Ear) -> str:
    """Send what the ear gets until somebody has enough; how it ended."""
    gone = asyncio.create_task(_until_closed(socket))
    hearing = asyncio.create_task(_send_sound(socket, ear, request[RIGHT].is_over))
    try:
        await asyncio.wait((gone, hearing), return_when=asyncio.FIRST_COMPLETED)
        result = hearing.result() if hearing.done() else "ended"
        if gone.done() and socket.close_code == TOO_SLOW:
            # The supervisor's word: the page takes nothing from it.
            result = "dropped"
    finally:
        for task in (gone, hearing):
            task.cancel()
        await asyncio.wait((gone, hearing))
    code, words = (TOO_SLOW, b"too slow") if result == "dropped" else (CALL_OVER, b"over")
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1.0):
            await socket.close(code=code, message=words)
    if result == "dropped":
        _abort(request)
    return result


async def _until_closed(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


async def _send_sound(socket: web.WebSocketResponse, ear: Ear, is_over: Callable[[], bool]) -> str:
    while not ear.is_behind:
        sound = ear.take()
        if is_over():
            return "ended"
        if sound:
            try:
                async with asyncio.timeout(TAKE_S):
                    await socket.send_bytes(sound)
            except TimeoutError:
                return "dropped"
            except ConnectionError:
                return "ended"
        elif ear.is_over:
            return "ended"
        await asyncio.sleep(LISTEN_EVERY_S)
    return "dropped"
