"""Somebody who listens to a link, for tests of links."""

from dataclasses import dataclass, field

from gateway.realtime import Link, Listener


@dataclass
class Ear:
    """Listens to a link and remembers what it was told, in order."""

    told: list[str | bytes] = field(default_factory=list)
    freed: int = 0
    closed: int = 0

    def hear(self, link: Link) -> None:
        """Listen from now on."""
        link.listen(Listener(self._message_came, self._link_freed, self._link_closed))

    def _message_came(self, message: str | bytes) -> None:
        assert not self.closed, "nothing follows the close"
        self.told.append(message)

    def _link_freed(self) -> None:
        self.freed += 1

    def _link_closed(self) -> None:
        self.closed += 1
