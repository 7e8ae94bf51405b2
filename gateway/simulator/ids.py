"""Identifiers that look like the service's, the same ones in every run of one seed."""

import random
import string

_BASE62 = string.digits + string.ascii_letters
_LENGTH = 21


class Ids:
    """Makes ``event_...``, ``item_...`` and so on from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  names, not secrets

    def new(self, kind: str) -> str:
        """A fresh identifier: ``kind``, an underscore, 21 base62 characters."""
        return f"{kind}_{''.join(self._random.choices(_BASE62, k=_LENGTH))}"
