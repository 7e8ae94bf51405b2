"""Takes the caller out of what a provider says, and leaves everything else as it was.

A call that announces its recording drops what it hears until the announcement was heard. Of that
time a tape holds silence of the same length, and every key as one and the same: a replay drops both
just so.
"""

import binascii
import json
import re
from collections.abc import Mapping
from typing import Final

from gateway.tape.masking import masked

_SILENCE: Final[Mapping[str, bytes]] = {"pcm": b"\x00", "ulaw": b"\xff", "alaw": b"\xd5"}
_PAYLOAD = re.compile(r'("payload"\s*:\s*)("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)


class Hush:
    """Silence for one encoding of the caller's audio.

    Args:
        encoding: "pcm", "ulaw" or "alaw".
    """

    def __init__(self, encoding: str) -> None:
        self._silence = _SILENCE[encoding]

    def __call__(self, message: str | bytes) -> str | bytes:
        """One message of the provider; binary ones are sound."""
        if isinstance(message, bytes):
            return self._silence * len(message)
        text, payloads = _PAYLOAD.subn(self._payload, message)
        return text if payloads else masked(message, "provider")

    def _payload(self, found: re.Match[str]) -> str:
        """As many bytes in base64; what is no base64 does not become any."""
        try:
            size = len(binascii.a2b_base64(json.loads(found[2]), strict_mode=True))
        except ValueError:
            return f'{found[1]}"*"'
        silence = binascii.b2a_base64(self._silence * size, newline=False).decode()
        return f'{found[1]}"{silence}"'
