"""The recordings that come with the package, and what each is played for."""

from collections.abc import Mapping
from importlib import resources
from typing import Final

# Name of a prompt -> file.
PROMPTS: Final[Mapping[str, str]] = {
    "apology": "apology.wav",
    "filler": "one-moment-please.wav",
    "goodbye": "goodbye.wav",
}
PROMPT_HZ: Final = 24_000


def shipped_sound(name: str) -> str:
    """The path of a recording that comes with the package."""
    return str(resources.files("gateway") / "prompts" / name)
