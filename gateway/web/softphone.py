"""The softphone: a page that calls the agents from a browser, through the bridge of every call.

An operator may change some of an agent's settings, for their own call only; they are checked
by the same model as ``gateway.toml``. What happens on the call is told on its own socket, beside
the audio, so that words and sound come in order.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from gateway.errors import CallRejected, SettingsError
from gateway.events import (
    AgentSaid,
    BargedIn,
    BargeInConfirmed,
    CallBegan,
    CallEnded,
    CallerSpoke,
    CallReady,
    Fact,
    FirstAudioSent,
    ItemPlayed,
    MarksLost,
    PromptPlayed,
    RealtimeDialled,
    RealtimeErrorSeen,
    RealtimeReconnected,
    StateChanged,
    ToolCalled,
    TurnAnswered,
    TurnTimedOut,
)
from gateway.settings import CALL_CHANGES, Agent, Dialect
from gateway.web import Area, Route

Observer = Callable[[str, Fact], None]


class PageLink(Protocol):
    """The page's socket, as far as facts need it."""

    @property
    def is_clogged(self) -> bool:
        """The page is slow."""

    def send(self, *messages: str | bytes) -> None:
        """Write now or raise ConnectionError."""


# Makes the observer of a page's own call.
Teller = Callable[[PageLink], Observer]
Take = Callable[[web.Request, Teller], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Switchboard:
    """What the softphone needs of the lobby.

    ``check``: raises ``CallRejected`` when no call can be taken. ``take``: answers the upgrade and
    carries the call; tells what happens to the observer it makes of the page's link.
    """

    agents: Mapping[str, Agent]
    dialect: Dialect
    check: Callable[[], Awaitable[None]]
    take: Take


def softphone_area(board: Switchboard) -> Area:
    """The page and its routes."""

    async def agents(_request: web.Request) -> web.Response:
        return _json(_described(board))

    async def check(request: web.Request) -> web.Response:
        return await _check(board, request)

    async def media(request: web.Request) -> web.StreamResponse:
        return await board.take(request, teller)

    routes = (
        Route("GET", "/softphone/agents", agents, "operator"),
        Route("POST", "/softphone/check", check, "operator"),
        Route("GET", "/softphone/media", media, "operator"),
    )
    return Area("/softphone", "Softphone", "softphone.html", routes, "operator")


def _described(board: Switchboard) -> dict[str, object]:
    """The agents as they are, and what their settings may be."""
    shown = set(CALL_CHANGES)
    return {
        "dialect": board.dialect,
        "agents": [
            {"name": name} | agent.model_dump(mode="json", include=shown)
            for name, agent in board.agents.items()
        ],
        "schema": Agent.model_json_schema(),
    }


async def _check(board: Switchboard, request: web.Request) -> web.Response:
    """Could this call be placed? 204; 422 with a line for each bad field; 503 with the reason."""
    wish = await _wish(request)
    try:
        _chosen(board, wish.agent).changed(wish.overrides)
        await board.check()
    except SettingsError as error:
        return _json({"problems": [problem.split(": ", 1) for problem in error.problems]}, 422)
    except CallRejected as rejected:
        return _json({"reason": rejected.reason}, 503)
    return web.Response(status=204)


class _Wish(msgspec.Struct):
    """Whom the page wants to call, and with which settings."""

    agent: str = ""
    overrides: dict[str, Any] = {}


async def _wish(request: web.Request) -> _Wish:
    try:
        return msgspec.json.decode(await request.read(), type=_Wish)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise web.HTTPBadRequest(text="not what the page sends\n") from None


def _chosen(board: Switchboard, name: str) -> Agent:
    agent = board.agents.get(name)
    if agent is None:
        raise SettingsError(["agent: there is none of this name"])
    return agent


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


# ------------------------------------------------------------- what happens on the call

_TOLD: Final[Mapping[type, str]] = {
    CallBegan: "call_began",
    RealtimeDialled: "realtime_dialled",
    CallReady: "call_ready",
    RealtimeReconnected: "realtime_reconnected",
    StateChanged: "state_changed",
    CallerSpoke: "caller_spoke",
    AgentSaid: "agent_said",
    ItemPlayed: "item_played",
    FirstAudioSent: "first_audio_sent",
    TurnAnswered: "turn_answered",
    TurnTimedOut: "turn_timed_out",
    BargedIn: "barged_in",
    BargeInConfirmed: "barge_in_confirmed",
    PromptPlayed: "prompt_played",
    ToolCalled: "tool_called",
    RealtimeErrorSeen: "realtime_error",
    MarksLost: "marks_lost",
    CallEnded: "call_ended",
}


def teller(link: PageLink) -> Observer:
    """Tells the page each fact; a page that reads too slowly misses some, and holds up nothing."""

    def tell(call_id: str, fact: Fact) -> None:
        kind = _TOLD.get(type(fact))
        if kind is None or link.is_clogged:
            return
        with suppress(ConnectionError):
            link.send(_fact_message(call_id, kind, fact))

    return tell


def _fact_message(call_id: str, kind: str, fact: Fact) -> str:
    told: dict[str, object] = {"event": "fact", "fact": kind, "callId": call_id}
    fields = msgspec.to_builtins(fact)
    if isinstance(fact, CallEnded):
        fields["result"] = fact.termination.result
    return msgspec.json.encode(told | fields).decode()
