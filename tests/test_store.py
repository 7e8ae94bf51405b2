"""Calls that ended, in SQLite and a real PostgreSQL: kept, found, tidied, never waited for."""

import asyncio
import sqlite3
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from gateway import store as room
from gateway.store import CallStore, Ears, Outcome, database_url
from gateway.web.shelf import ShelfUnavailable, StoredCall
from tests.postgres import Postgres, postgres
from tests.running import happens

_DAY_S = 86400.0


def call(number: int, ended_at: float = 1000.0, **changes: str) -> StoredCall:
    """A call that ended; ``changes`` are fields of text."""
    texts = {
        "call_id": f"ab-{number}",
        "provider_call_id": f"CA{number}",
        "provider": "twilio",
        "agent": "default",
        "result": "success",
        "reason": "caller_hangup",
        "summary": f'{{"call_id":"ab-{number}"}}',
        "details": f'{{"number":{number}}}',
    }
    return StoredCall(began_at=ended_at - 20, ended_at=ended_at, **(texts | changes))


@dataclass
class Heard:
    """What a store told."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    back: int = 0

    @property
    def ears(self) -> Ears:
        """To be given to a store."""
        return Ears(self._stored, self.lost.append, self._came_back)

    def _stored(self, outcome: Outcome, count: int) -> None:
        self.outcomes[outcome] += count

    def _came_back(self) -> None:
        self.back += 1


@dataclass
class Stage:
    """A store, what it told, and its clock."""

    store: CallStore
    heard: Heard


@contextmanager
def store_at(url: str, now: float = 2000.0, keep_calls: int = 1000) -> Iterator[Stage]:
    """A store that runs, and is closed afterwards."""
    heard, target = Heard(), database_url(url)
    assert target is not None
    store = CallStore(target, 30 * _DAY_S, keep_calls, heard.ears, lambda: now)
    store.start()
    try:
        yield Stage(store, heard)
    finally:
        store.close()


def sqlite(folder: Path) -> str:
    """The URL of a file."""
    return f"sqlite:///{folder}/state/calls.db"


async def written(stage: Stage, count: int) -> bool:
    """Whether so many calls were written in time."""
    return await happens(lambda: stage.heard.outcomes["ok"] >= count, 20)


async def test_a_call_can_be_found_again(tmp_path: Path) -> None:
    """By a part of either id, the latest first; all of it by its id."""
    with store_at(sqlite(tmp_path)) as stage:
        for number in range(30):
            stage.store.put(call(number, 1000.0 + number))
        assert await written(stage, 30)

        assert await stage.store.latest(2) == ['{"call_id":"ab-29"}', '{"call_id":"ab-28"}']
        assert await stage.store.latest(9, "AB-7") == ['{"call_id":"ab-7"}']
        assert await stage.store.latest(9, "ca7") == ['{"call_id":"ab-7"}']
        assert await stage.store.latest(9, "%") == []
        assert await stage.store.details("ab-7") == '{"number":7}'
        assert await stage.store.details("ab-77") is None


async def test_a_call_can_be_erased(tmp_path: Path) -> None:
    """Somebody may ask for it by right."""
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1))
        assert await written(stage, 1)

        assert await stage.store.forget("ab-1")
        assert not await stage.store.forget("ab-1")
        assert await stage.store.details("ab-1") is None


async def test_a_call_that_was_erased_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still waited for the database when it was erased; the others are written."""
    monkeypatch.setattr(room, "READ_S", 0.2)
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(0))
        assert await written(stage, 1)
        with closing(sqlite3.connect(tmp_path / "state/calls.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            stage.store.put(call(1))
            assert await happens(lambda: bool(stage.heard.lost))
            with pytest.raises(ShelfUnavailable):
                await stage.store.forget("ab-1")
        stage.store.put(call(2))
    with store_at(sqlite(tmp_path)) as stage:
        assert await happens(lambda: stage.heard.back == 1)
        kept = await stage.store.latest(9)

    assert sorted(kept) == ['{"call_id":"ab-0"}', '{"call_id":"ab-2"}']


async def test_a_call_is_erased_while_the_database_is_away(tmp_path: Path) -> None:
    """Whoever asks is told that older calls were not looked for; this one is never written."""
    (tmp_path / "state").write_text("a file where the folder should be")
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1))
        assert await happens(lambda: bool(stage.heard.lost))
        with pytest.raises(ShelfUnavailable):
            await stage.store.forget("ab-1")
        (tmp_path / "state").unlink()
        stage.store.put(call(2))
        assert await written(stage, 1)
        assert await stage.store.latest(9) == ['{"call_id":"ab-2"}']


async def test_nothing_of_an_erased_call_is_left_in_the_file(tmp_path: Path) -> None:
    """Not even where SQLite keeps room for the next one."""
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1, details='"' + "my card is 4111 " * 2000 + '"'))
        assert await written(stage, 1)
        assert b"4111" in (tmp_path / "state/calls.db").read_bytes()
        assert await stage.store.forget("ab-1")
        with stage.store._engine.connect() as connection:
            assert connection.scalar(text("PRAGMA secure_delete")) == 1

    assert b"4111" not in (tmp_path / "state/calls.db").read_bytes()


async def test_calls_outlive_the_process(tmp_path: Path) -> None:
    """What was handed over is written before the end, and is there at the next start."""
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1))
    with store_at(sqlite(tmp_path)) as stage:
        assert await happens(lambda: stage.heard.back == 1)
        assert await stage.store.details("ab-1") == '{"number":1}'


def test_the_file_is_for_its_owner(tmp_path: Path) -> None:
    """What callers said is not for everybody on the machine."""
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1))

    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state/calls.db").stat().st_mode) == 0o600


def test_old_calls_are_deleted(tmp_path: Path) -> None:
    """By age and by number."""
    now = 100 * _DAY_S
    with store_at(sqlite(tmp_path)) as stage:
        for number in range(10):
            stage.store.put(call(number, now - (10 - number) * _DAY_S))
        stage.store.put(call(99, now - 31 * _DAY_S))
    with store_at(sqlite(tmp_path), now, keep_calls=4):
        pass

    engine = create_engine(sqlite(tmp_path))
    with engine.connect() as connection:
        kept = set(connection.scalars(text("SELECT call_id FROM gateway_calls")))
    engine.dispose()
    assert kept == {"ab-6", "ab-7", "ab-8", "ab-9"}


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    """An older gateway says why it keeps nothing, and changes nothing."""
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1))
    engine = create_engine(sqlite(tmp_path))
    with engine.begin() as connection:
        connection.execute(text("UPDATE gateway_schema SET version = 99"))
    engine.dispose()

    with store_at(sqlite(tmp_path)) as stage:
        assert await happens(lambda: bool(stage.heard.lost))
        assert "schema 99, made by a newer gateway" in stage.heard.lost[0]
        with pytest.raises(ShelfUnavailable, match="not reached"):
            await stage.store.latest(1)


async def test_a_missing_step_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of an older gateway are brought up to date, each step once."""
    with store_at(sqlite(tmp_path)) as stage:
        stage.store.put(call(1))
    steps: list[int] = []
    monkeypatch.setattr(room, "SCHEMA", 3)
    monkeypatch.setattr(
        room, "MIGRATIONS", {1: lambda _: steps.append(1), 2: lambda _: steps.append(2)}
    )
    for _ in range(2):
        with store_at(sqlite(tmp_path)) as stage:
            assert await happens(lambda: bool(stage.heard.back))  # used at once

    assert steps == [1, 2]


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    """A database that cannot be reached costs the oldest calls, and they are counted."""
    (tmp_path / "state").write_text("a file where the folder should be")
    with store_at(sqlite(tmp_path)) as stage:
        for number in range(room.MAX_WAITING + 7):
            stage.store.put(call(number))

    assert stage.heard.outcomes == {"dropped": 7}
    assert len(stage.heard.lost) == 1


async def test_nobody_waits_for_a_database_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page gets its refusal, and so many pages may ask at a time and no more."""
    monkeypatch.setattr(room, "READ_S", 0.05)
    gate = threading.Event()
    with store_at(sqlite(tmp_path)) as stage:
        assert await happens(lambda: stage.heard.back == 1)
        monkeypatch.setattr(room, "_latest", lambda *_: gate.wait(10))
        asked = [asyncio.create_task(stage.store.latest(1)) for _ in range(room.MAX_READERS + 1)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        gate.set()

    told = Counter(str(answer) for answer in answers)
    assert told == {
        "the database does not answer in time": room.MAX_READERS,
        "too many wait for the database": 1,
    }


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:////var/lib/calls.db", "sqlite"),
        ("postgresql://gw:secret@db/calls", "postgresql+psycopg"),
        ("postgres://gw:secret@db/calls", "postgresql+psycopg"),
    ],
)
def test_urls(given: str, driver: str) -> None:
    """What people write for a database is understood."""
    url = database_url(given)
    assert url is not None
    assert url.drivername == driver


def test_nothing_need_be_kept() -> None:
    """A database in memory would be one nobody can look into."""
    assert database_url("sqlite://") is None
    assert database_url("sqlite:///:memory:") is None


@pytest.mark.parametrize("given", ["", "calls.db", "mysql://h/d", "sqlite://host/file"])
def test_other_databases_are_refused(given: str) -> None:
    """With what is accepted, and without the URL, which may hold a password."""
    with pytest.raises(ValueError, match="accepted: sqlite"):
        database_url(given)


# ------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A real server."""
    with postgres() as server:
        yield server


@pytest.mark.xdist_group("postgres")
async def test_postgresql_goes_away_and_comes_back(server: Postgres) -> None:
    """Calls that end meanwhile are written when it is back; it is told once that it was away."""
    with store_at(server.url) as stage:
        stage.store.put(call(1))
        assert await written(stage, 1)
        server.stop()
        for number in range(2, 30):
            stage.store.put(call(number))
        assert await happens(lambda: bool(stage.heard.lost))
        with pytest.raises(ShelfUnavailable):
            await stage.store.latest(1)
        server.start()
        assert await written(stage, 29)
        assert len(await stage.store.latest(100)) == 29

    assert len(stage.heard.lost) == 1
    assert stage.heard.back == 2
    assert server.query("SELECT count(*) FROM gateway_calls") == ["29"]


@pytest.mark.xdist_group("postgres")
async def test_postgresql_takes_what_peers_send(server: Postgres) -> None:
    """Characters it refuses, ids that are too long, markup: written, and read back."""
    odd = "\0 \ud800 <b> ' \" % \\ \U0001f600"
    with store_at(server.url) as stage:
        stage.store.put(call(50, call_id="odd", provider_call_id=odd * 20, agent=odd * 9))
        stage.store.put(call(51))
        assert await happens(lambda: stage.heard.outcomes["ok"] == 2)
        found = await stage.store.latest(5, "odd")

    assert found == ['{"call_id":"ab-50"}']
    assert stage.heard.outcomes == {"ok": 2}


@pytest.mark.xdist_group("postgres")
async def test_one_bad_call_keeps_no_other_out(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the database refuses for good is counted, not tried for ever."""
    monkeypatch.setattr(room, "_clean", lambda words: words)
    with store_at(server.url) as stage:
        stage.store.put(call(60))
        stage.store.put(call(61, details="\0"))
        stage.store.put(call(62))
        assert await happens(lambda: stage.heard.outcomes.total() == 3)

    assert stage.heard.outcomes == {"ok": 2, "failed": 1}


@pytest.mark.xdist_group("postgres")
async def test_a_database_that_knows_few_letters_keeps_the_other_calls(server: Postgres) -> None:
    """What it has no letters for is counted as refused, and the next call is written."""
    server.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with store_at(server.url.removesuffix("postgres") + "latin") as stage:
        stage.store.put(call(70, details='"gr\u00fc\u00df"'))
        stage.store.put(call(71, details='"\U0001f600"'))
        stage.store.put(call(72))
        assert await happens(lambda: stage.heard.outcomes.total() == 3)
        assert await stage.store.details("ab-70") == '"gr\u00fc\u00df"'
        with pytest.raises(ShelfUnavailable):
            await stage.store.latest(9, "\U0001f600")

    assert stage.heard.outcomes == {"ok": 2, "failed": 1}


def test_the_url_of_the_server_is_understood() -> None:
    """The tests' server is reached as an operator's would be."""
    url = database_url("postgresql://postgres@127.0.0.1:5432/postgres")
    assert url == make_url("postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
