"""What a whole run came to."""

from dataclasses import dataclass, field

from gateway.bench.figures import Figures, Verdict


@dataclass(frozen=True, slots=True)
class Measured:
    """One step and what it proves."""

    name: str
    figures: Figures
    verdict: Verdict


@dataclass(slots=True)
class Findings:
    """Everything a run came to; ``capacity`` None where it refuses to conclude.

    ``has_tls``: callers and model were spoken to over TLS. ``has_tapes``: every call was taped.
    """

    steps: list[Measured] = field(default_factory=list)
    capacity: int | None = None
    refusal: str = ""
    latency: Measured | None = None
    setup: Measured | None = None
    has_tls: bool = False
    has_tapes: bool = False
