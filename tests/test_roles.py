"""The ladder of roles: who may do what, from the least to the most."""

from itertools import combinations
from typing import get_args

from gateway.roles import LADDER, Role, highest, includes

ROLES: tuple[Role, ...] = ("viewer", "operator", "listener")


def test_the_ladder_has_every_role_once() -> None:
    """In the order in which they may do more."""
    assert tuple(LADDER) == get_args(Role) == ROLES


def test_each_role_includes_those_below_it_and_no_other() -> None:
    """And itself."""
    for lower, higher in combinations(ROLES, 2):
        assert includes(higher, lower)
        assert not includes(lower, higher)
    assert all(includes(role, role) for role in ROLES)


def test_the_highest_of_some() -> None:
    """In whatever order they come."""
    assert highest(["listener", "viewer"]) == "listener"
    assert highest(["viewer", "operator"]) == "operator"
