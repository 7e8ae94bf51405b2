"""Builds the console of a process from its settings, with the database of its calls."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from gateway.errors import SettingsError
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.web.console import Console, Rules
from gateway.web.reports import Reports
from gateway.web.shelf import Shelf

# Where calls are kept without GATEWAY_DATABASE_URL, below the user's home.
STATE_FILE: Final = ".local/state/voice-gateway/calls.db"
_DAY_S: Final = 86400.0
_log: Final = structlog.get_logger("gateway")


def build_console(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Console | None:
    """The console, where the settings have a token for it; its database is closed with the stack.

    Args:
        settings: all of them.
        metrics: what is counted.
        stack: of the process.

    Raises:
        SettingsError: the database is none that can be used.
    """
    if not settings.console_tokens:
        return None
    rules = Rules(
        may_listen=settings.listen_in,
        keeps_words=settings.calls_transcripts,
        report=_reports(Path(settings.tape_dir), stack).page if settings.tape_dir else None,
        report_policy=_report_policy(),
    )
    return Console(metrics, rules, open_shelf(settings, metrics, stack))


def _report_policy() -> str:
    from gateway.tape.report import content_security_policy  # noqa: PLC0415  # brings replay along

    return content_security_policy()


def _reports(folder: Path, stack: AsyncExitStack) -> Reports:
    reports = Reports(folder, _unmade)
    stack.callback(reports.close)
    return reports


def _unmade(why: str) -> None:
    _log.error("report_not_made", detail=why)


def open_shelf(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Shelf | None:
    """The database of ended calls; None where they are not to be kept.

    Raises:
        SettingsError: it is none that can be used.
    """
    from gateway.store import CallStore, Ears, database_url  # noqa: PLC0415  # 0.3 s, 12 MB

    try:
        url = database_url(_where(settings))
        if url is None:
            return None
        ears = Ears(metrics.call_stored, _lost(metrics), _back(metrics))
        keep_s = settings.calls_keep_days * _DAY_S
        store = CallStore(url, keep_s, settings.calls_keep, ears, time.time)
    except ValueError as error:
        raise SettingsError([f"GATEWAY_DATABASE_URL: {error}"]) from None
    except ImportError:
        why = "PostgreSQL needs its driver: pip install 'voice-gateway[postgres]'"
        raise SettingsError([f"GATEWAY_DATABASE_URL: {why}"]) from None
    store.start()

    async def close() -> None:
        if not await asyncio.to_thread(store.close):
            _log.error("calls_not_stored")

    stack.push_async_callback(close)
    return store


def _where(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    try:
        return f"sqlite:///{Path.home() / STATE_FILE}"
    except RuntimeError:  # a user without a home
        return "sqlite://"


def _lost(metrics: Metrics) -> Callable[[str], None]:
    def lost(why: str) -> None:
        metrics.set_database_up(is_up=False)
        _log.error("database_lost", why=why)

    return lost


def _back(metrics: Metrics) -> Callable[[], None]:
    def back() -> None:
        metrics.set_database_up(is_up=True)
        _log.info("database_reached")

    return back
