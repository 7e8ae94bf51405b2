"""Identifiers of the simulated service."""

import re

from gateway.simulator.ids import Ids


def test_ids_look_like_the_services() -> None:
    """A kind, an underscore, 21 base62 characters; all different."""
    ids = Ids(1)

    made = [ids.new("item") for _ in range(100)]

    assert all(re.fullmatch(r"item_[0-9A-Za-z]{21}", name) for name in made)
    assert len(set(made)) == 100


def test_ids_repeat_with_the_seed() -> None:
    """The same seed gives the same names, another seed others."""
    assert Ids(5).new("resp") == Ids(5).new("resp")
    assert Ids(5).new("resp") != Ids(6).new("resp")
