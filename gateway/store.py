"""Calls that ended, kept in a database: SQLite, or PostgreSQL where the settings name one.

One thread writes, what waits for it is bounded, and nobody on the call path waits for anything. A
database that is away is tried again, ever more slowly, and what waited is written then; beyond
``MAX_WAITING`` the oldest calls make room and are counted. Reading has a thread of its own, so that
a page cannot hold up a write.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, SQLAlchemyError

from gateway.errors import GatewayError
from gateway.web.shelf import ShelfUnavailable, StoredCall

# Calls that wait for the database, some 2 kB each, 40 kB with a long transcript.
MAX_WAITING: Final = 1000
# Written in one go: the interpreter is shared with the calls, so not many.
BATCH: Final = 20
# After a failure: so long until the next attempt, doubled each time.
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
# How often old calls are looked for.
TIDY_EVERY_S: Final = 300.0
# How long a stop waits for the database.
DRAIN_S: Final = 5.0
# A page waits no longer for an answer, and so many may wait at a time.
READ_S: Final = 3.0
MAX_READERS: Final = 8

SCHEMA: Final = 1

_Answer = TypeVar("_Answer")
_metadata: Final = MetaData()
_version: Final = Table(
    "gateway_schema",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)
_calls: Final = Table(
    "gateway_calls",
    _metadata,
    Column("call_id", String(64), primary_key=True),
    Column("provider_call_id", String(64), nullable=False, index=True),
    Column("began_at", Float, nullable=False),
    Column("ended_at", Float, nullable=False, index=True),
    Column("provider", String(32), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("result", String(32), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("summary", Text, nullable=False),
    Column("details", Text, nullable=False),
)

# The step from each version to the next one; there is only one version yet.
MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {}


class NewerSchema(GatewayError):
    """A later gateway has changed the tables: this one would spoil them."""


def _row(call: StoredCall) -> dict[str, Any]:
    """Values by column, with nothing in them that a database refuses."""
    values = {column.name: getattr(call, column.name) for column in _calls.columns}
    return {
        name: _clean(value)[: getattr(_calls.c[name].type, "length", None)]
        if isinstance(value, str)
        else value
        for name, value in values.items()
    }


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()


Outcome = Literal["ok", "dropped", "failed"]


@dataclass(frozen=True, slots=True)
class Ears:
    """Who is told, from the writer's thread.

    ``stored``: what became of so many calls: written, dropped because too many waited, or refused
    by the database. ``lost``: the database is away, and why. ``back``: it answers (again).
    """

    stored: Callable[[Outcome, int], None]
    lost: Callable[[str], None]
    back: Callable[[], None]


class CallStore:
    """The calls in one database.

    Args:
        url: of SQLAlchemy, from ``database_url``.
        keep_s: calls that ended longer ago are deleted.
        keep_calls: and the oldest of more than so many.
        ears: who is told.
        clock: tells unix seconds.
    """

    def __init__(
        self, url: URL, keep_s: float, keep_calls: int, ears: Ears, clock: Callable[[], float]
    ) -> None:
        self._url = url
        self._keep_s = keep_s
        self._keep_calls = keep_calls
        self._ears = ears
        self._engine = _engine(url)
        self._waiting: deque[StoredCall] = deque()
        self._lock = threading.Lock()
        # Held while calls that waited become rows.
        self._writing = threading.Lock()
        self._news = threading.Event()
        self._is_stopping = threading.Event()
        self._is_up: bool | None = None
        self._is_prepared = False
        self._tidied_at = float("-inf")
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="calls", daemon=True)
        self._readers = ThreadPoolExecutor(1, "read-calls")
        self._reading = 0

    # ------------------------------------------------------------- on the event loop

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, call: StoredCall) -> None:
        """Let this call be written; never waits."""
        with self._lock:
            self._waiting.append(call)
            is_too_many = len(self._waiting) > MAX_WAITING
            if is_too_many:
                self._waiting.popleft()
        if is_too_many:
            self._ears.stored("dropped", 1)
        self._news.set()

    async def latest(self, limit: int, text: str = "") -> list[str]:
        """Summaries of the calls that ended last, with this text in one of their ids.

        Raises:
            ShelfUnavailable: the database does not answer.
        """
        return await self._read(lambda connection: _latest(connection, limit, text))

    async def details(self, call_id: str) -> str | None:
        """All that is known of a call.

        Raises:
            ShelfUnavailable: the database does not answer.
        """
        return await self._read(lambda connection: _details(connection, call_id))

    async def forget(self, call_id: str) -> bool:
        """Erase a call; whether there was one.

        Raises:
            ShelfUnavailable: the database does not answer.
        """
        was_waiting = self._drop(call_id)
        return await self._read(lambda connection: self._erase(connection, call_id)) or was_waiting

    def _drop(self, call_id: str) -> bool:
        """Let a call that still waits not be written; whether there was one."""
        with self._lock:
            staying = [call for call in self._waiting if call.call_id != call_id]
            was_waiting = len(staying) < len(self._waiting)
            if was_waiting:
                self._waiting = deque(staying)
        return was_waiting

    def _erase(self, connection: Connection, call_id: str) -> bool:
        # Not while it is being written: it would be back.
        with self._writing:
            return _forget(connection, call_id)

    async def _read(self, query: Callable[[Connection], _Answer]) -> _Answer:
        if self._reading >= MAX_READERS:
            raise ShelfUnavailable("too many wait for the database")
        self._reading += 1
        try:
            asked = asyncio.get_running_loop().run_in_executor(self._readers, self._ask, query)
            asked.add_done_callback(self._has_read)
        except BaseException:
            self._reading -= 1
            raise
        try:
            return await asyncio.wait_for(asyncio.shield(asked), READ_S)
        except TimeoutError:
            raise ShelfUnavailable("the database does not answer in time") from None

    def _has_read(self, asked: "asyncio.Future[_Answer]") -> None:
        self._reading -= 1
        if not asked.cancelled():
            asked.exception()  # whoever waited no longer is not told

    def _ask(self, query: Callable[[Connection], _Answer]) -> _Answer:
        if not self._is_prepared:
            raise ShelfUnavailable("the database was not reached yet")
        try:
            with self._engine.begin() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise ShelfUnavailable(_words(error)) from None

    # ------------------------------------------------------------- in the writer's thread

    def close(self, timeout_s: float = DRAIN_S) -> bool:
        """Write what waits; whether that was done in time."""
        self._is_stopping.set()
        self._news.set()
        self._thread.join(timeout_s)
        self._readers.shutdown(wait=False, cancel_futures=True)
        is_done = not self._thread.is_alive()
        if is_done:
            self._engine.dispose()
        return is_done and not self._waiting

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            is_last = self._is_stopping.is_set()
            self._news.clear()
            if self._work():
                pause_s = FIRST_PAUSE_S
            elif not is_last:
                self._is_stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if is_last:
                return
            self._news.wait(TIDY_EVERY_S)

    def _work(self) -> bool:
        """Write all that waits and tidy up; whether the database took it."""
        try:
            self._prepare()
            while self._waiting:
                self._write_batch()
            self._tidy()
        except Exception as error:  # noqa: BLE001  # a writer that dies would keep nothing any more
            self._tell_lost(error)
            return False
        self._tell_back()
        return True

    def _tell_lost(self, error: Exception) -> None:
        # It may come back as another one.
        self._is_prepared = False
        if self._is_up is not False:
            self._is_up = False
            self._ears.lost(_words(error))

    def _tell_back(self) -> None:
        if self._is_up is not True:
            self._is_up = True
            self._ears.back()

    def _prepare(self) -> None:
        """Make the tables, or see that they are ours."""
        if self._is_prepared:
            return
        _make_private_file(self._url)
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            _bring_up_to_date(connection)
        self._is_prepared = True

    def _write_batch(self) -> None:
        """The first ones that wait; they wait until they are written."""
        with self._writing:
            with self._lock:
                batch = list(islice(self._waiting, BATCH))
            try:
                self._write(batch)
            except DataError:
                for call in batch:
                    self._write_alone(call)
            self._remove(batch)
        self._tell_back()

    def _write(self, batch: Sequence[StoredCall]) -> None:
        """Again and again with the same outcome: nobody knows what a lost connection has done."""
        rows = {call.call_id: _row(call) for call in batch}
        with self._engine.begin() as connection:
            connection.execute(delete(_calls).where(_calls.c.call_id.in_(rows)))
            connection.execute(insert(_calls), list(rows.values()))
        self._ears.stored("ok", len(batch))

    def _write_alone(self, call: StoredCall) -> None:
        """One that the database refuses must not keep the others out."""
        try:
            self._write([call])
        except DataError:
            self._ears.stored("failed", 1)

    def _remove(self, batch: Sequence[StoredCall]) -> None:
        """They may be gone already, if too many waited."""
        with self._lock:
            written = set(map(id, batch))
            while self._waiting and id(self._waiting[0]) in written:
                self._waiting.popleft()

    def _tidy(self) -> None:
        now = self._clock()
        if now < self._tidied_at + TIDY_EVERY_S:
            return
        with self._engine.begin() as connection:
            connection.execute(delete(_calls).where(_calls.c.ended_at < now - self._keep_s))
            newest = select(_calls.c.ended_at).order_by(_calls.c.ended_at.desc())
            limit = connection.scalar(newest.offset(self._keep_calls).limit(1))
            if limit is not None:
                connection.execute(delete(_calls).where(_calls.c.ended_at <= limit))
        self._tidied_at = now


# ------------------------------------------------------------- the database


def database_url(text: str) -> URL | None:
    """The URL for SQLAlchemy of what the settings say; None = nothing is to be kept.

    Raises:
        ValueError: it is of no database that is supported; says what is accepted.
    """
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        raise ValueError(f"not a URL; {_ACCEPTED}") from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite" or url.host:
        raise ValueError(f"not a database that is supported; {_ACCEPTED}")
    return url if url.database and url.database != ":memory:" else None


_ACCEPTED: Final = (
    "accepted: sqlite:////folder/file.db, postgresql://user:password@host/name, or sqlite:// to "
    "keep nothing"
)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        more: dict[str, Any] = {"connect_args": {"timeout": READ_S}}
    else:
        more = {
            "pool_timeout": READ_S,
            "connect_args": {
                "connect_timeout": 3,
                "options": "-c statement_timeout=10000 -c lock_timeout=5000",
                "tcp_user_timeout": 10000,
                "application_name": "voice-gateway",
                # Whatever the server's own is: what does not fit there is refused, call by call.
                "client_encoding": "utf8",
            },
        }
    # One for the writer, one for the reader; a connection that died is found out before its use.
    engine = create_engine(url, pool_pre_ping=True, pool_size=2, max_overflow=0, **more)
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _erase_for_good)
    return engine


def _erase_for_good(connection: DBAPIConnection, _record: object) -> None:
    """SQLite leaves what is deleted in the file, where it was not built to overwrite it."""
    connection.cursor().execute("PRAGMA secure_delete = ON")


def _make_private_file(url: URL) -> None:
    """What callers said is for the owner's eyes: SQLite would make a file for all."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    path = Path(url.database)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _bring_up_to_date(connection: Connection) -> None:
    found = connection.scalar(select(_version.c.version))
    if found is None:
        connection.execute(insert(_version).values(id=1, version=SCHEMA))
        return
    if found > SCHEMA:
        raise NewerSchema(
            f"the tables are of schema {found}, made by a newer gateway; this one knows {SCHEMA}"
        )
    for version in range(found, SCHEMA):
        MIGRATIONS[version](connection)
    if found < SCHEMA:
        connection.execute(_version.update().values(version=SCHEMA))


def _latest(connection: Connection, limit: int, text: str) -> list[str]:
    query = select(_calls.c.summary).order_by(_calls.c.ended_at.desc()).limit(limit)
    if text:
        wanted = text.lower()
        query = query.where(
            or_(
                func.lower(_calls.c.call_id).contains(wanted, autoescape=True),
                func.lower(_calls.c.provider_call_id).contains(wanted, autoescape=True),
            )
        )
    return list(connection.scalars(query))


def _details(connection: Connection, call_id: str) -> str | None:
    return connection.scalar(select(_calls.c.details).where(_calls.c.call_id == call_id))


def _forget(connection: Connection, call_id: str) -> bool:
    return bool(connection.execute(delete(_calls).where(_calls.c.call_id == call_id)).rowcount)


def _words(error: Exception) -> str:
    """What is wrong, in a line; the statement and its values are nobody's business."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:200] if lines else ''}"
