"""The console of several workers: the supervisor's, with the calls of all of them on one page.

Each worker is asked for news of its calls, again and again; what it says is one list here, and
pages are told from that list, so that no page costs a worker anything. What belongs to one call
goes to the worker that has it, and to the supervisor's own console when nobody has: that one knows
the database, and what was left of calls whose worker died.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
import structlog
from aiohttp import hdrs, web

from gateway.events import Termination
from gateway.web import Area, Handler, Route
from gateway.web.console import LIST_EVERY_S, MAX_ROWS, Console, call_id_of, data, wanted_text
from gateway.web.directory import Directory
from gateway.web.relay import ANSWER_S, NO_ANSWER, Relay, WorkerSilent
from gateway.web.roster import remains, summary

LISTENER_HEARTBEAT_S: Final = 10.0
# One who listens has nothing to say.
LISTENER_MESSAGE_BYTES: Final = 1024
_log: Final = structlog.get_logger("gateway")
_json: Final = msgspec.json.Encoder()


class _News(msgspec.Struct):
    """What a worker says of its calls, up to which number of its own."""

    version: int
    calls: list[msgspec.Raw]


_news: Final = msgspec.json.Decoder(_News).decode


@dataclass(slots=True)
class _Worker:
    """One that takes calls."""

    number: int
    relay: Relay
    seen: int = 0
    is_silent: bool = False
    # Nothing is erased while news are on their way: it would be back with them.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    following: asyncio.Task[None] | None = None


class Overview:
    """The calls of all workers, for the pages.

    Args:
        console: the supervisor's own.
    """

    def __init__(self, console: Console) -> None:
        self.directory = Directory()
        # Workers that end are no news.
        self.is_draining = False
        self._console = console
        self._is_closed = False
        self._workers: dict[int, _Worker] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------- workers

    def opened(self, number: int, path: str) -> None:
        """A worker takes calls; its private socket is there."""
        if self._is_closed:
            return
        worker = self._workers[number] = _Worker(number, Relay(path))
        worker.following = asyncio.create_task(self._follow(worker))

    def gone(self, number: int, was_running: Callable[[str, str], bool]) -> None:
        """A worker is dead.

        Args:
            number: which.
            was_running: whether a call of it, by provider and the provider's id, had not ended.
        """
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        self._leave(self._close(worker))
        for entry in self.directory.lose(number):
            self._end(entry.plain(), was_running)

    def _leave(self, leaving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _close(self, worker: _Worker) -> None:
        if worker.following is not None:
            worker.following.cancel()
        await worker.relay.close()

    def _end(self, row: dict[str, Any], was_running: Callable[[str, str], bool]) -> None:
        """A call went on, as far as was known: what is known of it is kept here."""
        is_lost = was_running(row["provider"], row["provider_call_id"])
        end = Termination("internal_error") if is_lost else None
        record = remains(row, self._console.clock(), end)
        self.directory.tell(None, [msgspec.Raw(_json.encode(summary(record)))])
        if is_lost or self._console.shelf is None:
            self._console.adopt(record)

    def relay_of(self, number: int) -> Relay | None:
        """The way to a worker, if it takes calls."""
        worker = self._workers.get(number)
        return worker.relay if worker else None

    async def close(self) -> None:
        """Ask nobody any more."""
        self._is_closed = True
        for worker in self._workers.values():
            self._leave(self._close(worker))
        self._workers.clear()
        await asyncio.gather(*self._leaving)

    async def _follow(self, worker: _Worker) -> None:
        while True:
            await self._renew(worker)
            await asyncio.sleep(LIST_EVERY_S)

    async def _renew(self, worker: _Worker) -> None:
        async with worker.lock:
            try:
                news = _news(await worker.relay.rows(worker.seen))
                # It may have died meanwhile.
                if self._workers.get(worker.number) is worker:
                    self.directory.tell(worker.number, news.calls)
            except (WorkerSilent, msgspec.DecodeError) as error:
                self._note_silence(worker, str(error))
                return
            worker.seen, worker.is_silent = news.version, False

    def _note_silence(self, worker: _Worker, why: str) -> None:
        is_gone = self._workers.get(worker.number) is not worker
        if not (worker.is_silent or is_gone or self.is_draining):
            _log.warning("worker_silent", worker_pid=worker.number, why=why)
        worker.is_silent = True

    async def _renew_all(self) -> None:
        """From those who answer, and no longer than an answer may take."""
        asked = [
            asyncio.create_task(self._renew(worker))
            for worker in self._workers.values()
            if not worker.is_silent
        ]
        if asked:
            _, late = await asyncio.wait(asked, timeout=ANSWER_S)
            for task in late:
                task.cancel()

    # ------------------------------------------------------------- pages

    def area(self) -> Area:
        """The console's page, with the data of all workers."""
        own = self._console.area()
        return replace(own, routes=tuple(map(self._replaced, own.routes)))

    def _replaced(self, route: Route) -> Route:
        many = {"/console/calls": self._list, "/console/live": self._live}
        if route.path in many:
            return replace(route, handler=many[route.path])
        if route.path.endswith("/tape"):
            return route  # all tapes are in one folder
        return replace(route, handler=self._passed_on(route))

    def _frame(self) -> dict[str, Any]:
        return {
            "now": self._console.clock(),
            "version": self.directory.version,
            "note": self._note(),
        }

    def _note(self) -> str:
        silent = sum(worker.is_silent for worker in self._workers.values())
        if not silent:
            return ""
        who = f"{silent} of {len(self._workers)} workers"
        return f"No answer from {who}: calls there are shown as they last were."

    async def _list(self, request: web.Request) -> web.Response:
        text = wanted_text(request)
        await self._renew_all()
        found = self.directory.find(text, MAX_ROWS)
        known = [entry.plain() for entry in found if entry.worker is not None]
        remains = [entry.plain() for entry in found if entry.worker is None]
        listed = await self._console.listed(text, known, remains)
        return data({**self._frame(), **listed})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        seen, note = 0, ""

        async def news() -> bytes | None:
            nonlocal seen, note
            changed = self.directory.changed_since(seen, MAX_ROWS)
            noted, note = note, self._note()
            if not changed and seen and noted == note:
                return None
            seen = max(1, self.directory.version)
            return _json.encode({**self._frame(), "calls": changed})

        return await self._console.tell(request, news, LIST_EVERY_S)

    # ------------------------------------------------------------- one call

    def _passed_on(self, route: Route) -> Handler:
        way = self._way_of(route)

        async def handle(request: web.Request) -> web.StreamResponse:
            call_id = call_id_of(request)
            worker = await self._worker_of(call_id)
            if worker is None and route.method == hdrs.METH_DELETE:
                return await self._erase_everywhere(request, route)
            if worker is None:
                return await route.handler(request)
            if worker.is_silent:
                raise web.HTTPGatewayTimeout(text=NO_ANSWER)
            return await way(request, worker)

        return handle

    def _way_of(
        self, route: Route
    ) -> Callable[[web.Request, _Worker], Coroutine[Any, Any, web.StreamResponse]]:
        if route.path.endswith("/live"):
            return self._stream
        if route.path.endswith("/listen"):
            return self._listen
        return self._erase if route.method == hdrs.METH_DELETE else self._ask

    async def _worker_of(self, call_id: str) -> _Worker | None:
        """Who has this call; one that has just begun may not be known yet."""
        number = self.directory.worker_of(call_id)
        if number is None:
            await self._renew_all()
            number = self.directory.worker_of(call_id)
        return None if number is None else self._workers.get(number)

    async def _ask(self, request: web.Request, worker: _Worker) -> web.StreamResponse:
        return await worker.relay.answer(request)

    async def _stream(self, request: web.Request, worker: _Worker) -> web.StreamResponse:
        return await worker.relay.stream(request, self._console.view)

    async def _listen(self, request: web.Request, worker: _Worker) -> web.StreamResponse:
        page = web.WebSocketResponse(
            heartbeat=LISTENER_HEARTBEAT_S, compress=False, max_msg_size=LISTENER_MESSAGE_BYTES
        )
        return await worker.relay.socket(request, page, ends_with_right=True)

    async def _erase(self, request: web.Request, worker: _Worker) -> web.StreamResponse:
        async with worker.lock:
            answer = await worker.relay.answer(request)
            if answer.status == web.HTTPNoContent.status_code:
                self.directory.forget(call_id_of(request))
        return answer

    async def _erase_everywhere(self, request: web.Request, route: Route) -> web.StreamResponse:
        """A call that nobody is known to have: workers keep more than the list does."""
        self.directory.forget(call_id_of(request))
        erasing = [self._erase(request, worker) for worker in self._workers.values()]
        told = await asyncio.gather(*erasing, route.handler(request), return_exceptions=True)
        gravest = max(told, key=_gravity)
        if isinstance(gravest, BaseException):
            raise gravest
        return gravest


def _gravity(answer: web.StreamResponse | BaseException) -> int:
    """Where one had nothing to erase another did; what somebody could not do is to be known."""
    nothing, done = web.HTTPNotFound.status_code, web.HTTPNoContent.status_code
    return {nothing: 0, done: 1}.get(getattr(answer, "status", 0), 2)
