"""The console of a process, built from its settings: its database, and what is told of it."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from gateway.errors import SettingsError
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.web.building import STATE_FILE, build_console
from gateway.web.console import Console
from tests.running import happens

TOKEN = "t" * 32


async def _built(
    stack: AsyncExitStack, **settings: object
) -> tuple[Console | None, CollectorRegistry]:
    registry = CollectorRegistry()
    made = Settings(openai_api_key="key", **settings)
    return build_console(made, Metrics(registry), stack), registry


async def test_no_token_no_console() -> None:
    """And no database is opened."""
    async with AsyncExitStack() as stack:
        console, _ = await _built(stack, database_url="sqlite://host/file")

    assert console is None


async def test_what_the_settings_say_is_the_rule(tmp_path: Path) -> None:
    """Listening in and words in the database are off until somebody switches them on."""
    where = f"sqlite:///{tmp_path}/calls.db"
    async with AsyncExitStack() as stack:
        plain, _ = await _built(stack, console_token=TOKEN, database_url=where)
        more, _ = await _built(
            stack,
            console_token=TOKEN,
            database_url=where,
            listen_in=True,
            calls_transcripts=True,
        )
    assert plain is not None
    assert more is not None
    assert (plain.rules.may_listen, plain.rules.keeps_words) == (False, False)
    assert (more.rules.may_listen, more.rules.keeps_words) == (True, True)


async def test_without_a_setting_calls_are_kept_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file of the user's own; told in log and metrics once it can be written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            _, registry = await _built(stack, console_token=TOKEN)
            assert await happens(lambda: registry.get_sample_value("gateway_database_up") == 1)

    assert (tmp_path / STATE_FILE).is_file()
    assert [line["event"] for line in logs] == ["database_reached"]


async def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    """The console works without it; log and metrics say so, once."""
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            console, registry = await _built(
                stack, console_token=TOKEN, database_url=f"sqlite:///{tmp_path}/file/calls.db"
            )
            assert await happens(lambda: bool(logs))
            assert registry.get_sample_value("gateway_database_up") == 0

    assert console is not None
    assert [line["event"] for line in logs] == ["database_lost"]


async def test_nothing_is_kept_where_nothing_is_to_be() -> None:
    """sqlite:// is no place."""
    async with AsyncExitStack() as stack:
        console, _ = await _built(stack, console_token=TOKEN, database_url="sqlite://")

    assert console is not None
    assert console.shelf is None


async def test_a_database_that_is_none_is_a_bad_setting() -> None:
    """With what is accepted, without the URL, which may hold a password."""
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsError) as caught:
            await _built(stack, console_token=TOKEN, database_url="sqlite://s3cret/file")

    (problem,) = caught.value.problems
    assert problem.startswith("GATEWAY_DATABASE_URL: not a database that is supported; accepted:")
    assert "s3cret" not in problem
