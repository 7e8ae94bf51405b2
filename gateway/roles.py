"""Who may do what on the pages of the operations listener: a ladder of three roles."""

from collections.abc import Mapping
from typing import Final, Literal

Role = Literal["viewer", "operator", "listener"]

# From the least to the most: each role may do what those before it may, and this.
LADDER: Final[Mapping[Role, str]] = {
    "viewer": "look: calls now and lately, what is said on them, how they went, what they cost",
    "operator": (
        "act: hang up, erase, open the report of a tape (it plays both voices), and talk to the "
        "agents on the softphone"
    ),
    "listener": "listen in to calls that are going on, where `GATEWAY_LISTEN_IN` allows it",
}
_RUNG: Final[Mapping[Role, int]] = {role: rung for rung, role in enumerate(LADDER)}


def includes(role: Role, wanted: Role) -> bool:
    """Whether whoever has a role may do what another, or the same, is asked for."""
    return _RUNG[role] >= _RUNG[wanted]


def highest(roles: list[Role]) -> Role:
    """The one that may do most, of one at least."""
    return max(roles, key=_RUNG.__getitem__)
