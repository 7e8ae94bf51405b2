"""What this gateway was measured to carry: the certificate that ``gateway bench`` writes."""

import platform
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

_VERSION = 1
_MAX_FILE_BYTES = 64 * 1024


class Certificate(msgspec.Struct, frozen=True):
    """The calls one core carried, on which machine, with which gateway, when (ISO 8601)."""

    version: int
    calls_per_core: float
    gateway: str
    measured_at: str
    machine: Mapping[str, object] = {}

    @property
    def cpu(self) -> str:
        """The model of the processor it was measured on; "" when it does not say."""
        found = next((self.machine[key] for key in ("cpu_model", "cpu") if key in self.machine), "")
        return found if isinstance(found, str) else ""


def read_certificate(path: str) -> Certificate:
    """Read a certificate.

    Raises:
        ValueError: it is missing, broken or of another version; says which.
    """
    try:
        with Path(path).open("rb") as file:
            found = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=Certificate)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}; {_ACCEPTED}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError(f"not a capacity certificate; {_ACCEPTED}") from None
    if found.version != _VERSION:
        raise ValueError(f"of an unknown version; {_ACCEPTED}")
    if not found.calls_per_core >= 1:
        raise ValueError(f"says that a core carries no call; {_ACCEPTED}")
    return found


_ACCEPTED = "accepted: a file that gateway bench --certificate has written"


def cpu_model(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The model of this machine's processor, as Linux tells it, else its architecture."""
    try:
        text = Path(cpuinfo).read_text("utf-8", "replace")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
