"""The ledger of a taped call: the accounts of everything the agent said, from a replay.

A tape holds what passed on the wires; which bytes belong to which item of the agent's speech, and
how much of each was heard, only the call itself knows. So it is played again and its ledger read.
"""

from dataclasses import dataclass, field
from pathlib import Path

from gateway.call import Call
from gateway.errors import TapeError
from gateway.events import Fact, ItemPlayed
from gateway.playout import Item
from gateway.tape.reading import Tape
from gateway.tape.replay import Played, replay


@dataclass(slots=True)
class Account:
    """One item of agent speech, or a prompt (then ``response_id`` is empty).

    ``spans``: where its sound lies on the line of all that was sent (bytes). ``heard_ms`` and
    ``heard_text``: as the call closed it; None where it did not (a prompt, the end of a tape).
    """

    item_id: str
    response_id: str
    spans: list[tuple[int, int]]
    received_ms: float
    heard_ms: float | None = None
    heard_text: str = ""


@dataclass(slots=True)
class Accounts:
    """What the replayed call says.

    ``differences``: passes in which this version sends something else than the tape says.
    ``problem``: why the replay is not to be trusted ("": it is the same to the byte).
    """

    items: list[Account] = field(default_factory=list)
    facts: list[tuple[float, Fact]] = field(default_factory=list)
    differences: int = 0
    problem: str = ""


def accounts_of(path: str | Path) -> Accounts:
    """Play a tape and read the ledger; a tape that cannot be played has no accounts.

    Raises:
        TapeError: the tape cannot be read.
    """
    bookkeeper = _Bookkeeper()
    with Tape(path) as tape:
        try:
            replayed = replay(tape, bookkeeper.watch, lambda _: bookkeeper.look())
        except (TapeError, RuntimeError) as error:
            why = str(error).removeprefix(f"{path}: ")
            return Accounts(problem=f"this version cannot replay the tape: {why}")
    bookkeeper.look()
    accounts = Accounts(bookkeeper.accounts(), replayed.facts, bookkeeper.differences)
    _close(accounts)
    if replayed.problems:
        t, what = replayed.problems[0]
        accounts.problem = f"this version replays the tape otherwise: at {t:.3f} s: {what}"
    elif bookkeeper.differences:
        accounts.problem = (
            f"this version replays the tape otherwise: {bookkeeper.differences} differences, the "
            f"first at {bookkeeper.first_difference_s:.3f} s"
        )
    return accounts


class _Bookkeeper:
    """Looks at the ledger before every pass: an account is never opened and closed in one."""

    def __init__(self) -> None:
        self.differences = 0
        self.first_difference_s = 0.0
        self._call: Call | None = None
        self._open: dict[int, Item] = {}
        self._accounts: list[Account] = []

    def watch(self, played: Played) -> None:
        """One pass with something to compare."""
        self._call = played.call
        if played.came != played.expected:
            self.first_difference_s = self.first_difference_s if self.differences else played.t
            self.differences += 1
        self.look()

    def look(self) -> None:
        """Open what is new, close what is gone."""
        if self._call is None:
            return
        items = {id(item): item for item in self._call.ledger.items}
        if items.keys() == self._open.keys():
            return
        for key in [key for key in self._open if key not in items]:
            self._accounts.append(_account(self._open.pop(key)))
        self._open.update(items)

    def accounts(self) -> list[Account]:
        """All of them, in the order of their sound."""
        found = self._accounts + [_account(item) for item in self._open.values()]
        return sorted(found, key=lambda account: account.spans[:1] or [(1 << 62, 0)])


def _account(item: Item) -> Account:
    return Account(item.item_id, item.response_id, list(item.spans), item.received_ms)


def _close(accounts: Accounts) -> None:
    """Set what the call said when it closed them: accounts of one item close in their order."""
    for _, fact in accounts.facts:
        if not isinstance(fact, ItemPlayed):
            continue
        for account in accounts.items:
            if account.item_id == fact.item_id and account.heard_ms is None:
                account.heard_ms, account.heard_text = fact.heard_ms, fact.text
                account.received_ms = fact.received_ms
                break
