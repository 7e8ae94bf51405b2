"""What the subjects are compared with: fixed work of their kind that calls nothing of ours."""

import base64
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from tests.benchmarks.gate import Work

Kind = Literal["words", "sound"]

_FRAME = bytes(range(160))
_MEDIA = json.dumps(
    {"event": "media", "chunk": "7", "media": {"payload": base64.b64encode(_FRAME).decode()}}
)


class _Station:
    """Takes a message, looks its kind up, keeps something, hands something on."""

    def __init__(self) -> None:
        self.out: deque[tuple[str, bytes]] = deque()
        self.seen = 0
        self._table: Mapping[str, Callable[[Any], None]] = {"media": self._media}

    def receive(self, text: str) -> bytes:
        message = json.loads(text)
        self._table[message["event"]](message["media"])
        kind, payload = self.out.popleft()
        return b"".join((kind.encode(), base64.b64encode(payload), b'"}'))

    def _media(self, media: Mapping[str, str]) -> None:
        payload = base64.b64decode(media["payload"])
        self.seen += len(payload)
        if payload and self.seen > 0:
            self.out.append(("media", payload + payload + payload))


def _words() -> Work:
    station = _Station()

    def run() -> None:
        for _ in range(100):
            station.receive(_MEDIA)

    return Work(run, 100)


def _sound() -> Work:
    generator = np.random.default_rng(1)
    sound = generator.integers(-8000, 8000, 640, dtype=np.int16).tobytes()
    matrix = generator.random((64, 48))
    table = np.arange(65536, dtype=np.int16)
    levels, out = np.empty((10, 64)), np.empty((10, 48))
    places = np.empty((10, 48), np.intp)

    def once() -> bytes:
        levels[...] = np.frombuffer(sound, np.int16).reshape(10, 64)
        levels.dot(matrix, out)
        places[...] = out
        return bytes(table.take(places, None, None, "clip").tobytes())

    def run() -> None:
        for _ in range(50):
            once()

    return Work(run, 50)


REFERENCES: Mapping[Kind, Callable[[], Work]] = {"words": _words, "sound": _sound}
