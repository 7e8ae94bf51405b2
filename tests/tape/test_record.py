"""A tape holds what was on the wire, in order, and a call never learns that there is one."""

import base64
import errno
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConnectError
from gateway.events import Termination
from gateway.realtime import Link, Listener
from gateway.tape.hush import Hush
from gateway.tape.masking import LinkName, Mask, masked
from gateway.tape.record import (
    BATCH_BYTES,
    EARLY_BYTES,
    HELD_BYTES,
    MAX_WAITING_BYTES,
    PAUSE_S,
    Tape,
    TapedLink,
    TapeEnd,
    Tapes,
    plain_options,
    plain_query,
    taped_dial,
)
from tests.lab import options
from tests.running import ROOT

HEAD = {"provider": "twilio", "dialect": "ga", "agent": "default", "settings": {}}
OVER = Termination("caller_hangup")
TOKEN = "s3cret-token-of-one-call"
Line = dict[str, Any]


class MemoryLink:
    """A socket's one end, as the test wants it."""

    def __init__(self) -> None:
        self.close_code, self.close_reason = 1006, ""
        self.is_clogged = False
        self.sent: list[str | bytes] = []
        self.closed: list[tuple[int, str]] = []
        self.is_gone = False
        self.listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Remember whom to tell."""
        self.listener = listener

    def send(self, *messages: str | bytes) -> None:
        """Take messages, or fail as a closed socket does."""
        if self.is_gone:
            raise ConnectionResetError("gone")
        self.sent.extend(messages)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Remember how."""
        self.closed.append((code, reason))

    def say(self, message: str | bytes) -> None:
        """The peer sends this."""
        assert self.listener is not None
        self.listener.message_came(message)


class Full(io.RawIOBase):
    """A file on a disk that has room for so much."""

    def __init__(self, path: Path, room_bytes: int) -> None:
        self._file = path.open("xb", buffering=0)
        self._room = room_bytes

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Take what fits, and nothing once that is used up."""
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(bytes(data)[: self._room]) or 0
        self._room -= taken
        return taken

    def close(self) -> None:
        """Close the real one."""
        self._file.close()
        super().close()


@dataclass
class Studio:
    """Tapes without their thread: what waits is written when the test says so."""

    folder: Path
    max_bytes: int = 10_000_000
    ends: list[TapeEnd] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    open_file: Callable[[Path], BinaryIO] | None = None
    # Most tests are about where a message goes, and count with numbers.
    mask: Mask = field(default_factory=lambda: Mask(hides_numbers=False))

    def __post_init__(self) -> None:
        """Set up."""
        end, lose = self.ends.append, self.losses.append
        mask = self.mask
        self.tapes = (
            Tapes(self.folder, self.max_bytes, end, lose, self.open_file, mask=mask)
            if self.open_file
            else Tapes(self.folder, self.max_bytes, end, lose, mask=mask)
        )
        self._count = 0

    def tape(self, *, token: str = "") -> Tape:
        """A tape that has begun."""
        self._count += 1
        tape = self.tapes.tape(f"c{self._count}")
        tape.begin(HEAD, token=token)
        return tape

    def end(self, tape: Tape) -> list[Line]:
        """The call is over; all lines of its tape but the first and ``began``."""
        tape.end(OVER)
        self.tapes.write_waiting()
        assert self.ends[-1].result == "ok", self.ends
        lines = lines_of(self.ends[-1].path)
        assert lines[0]["tape"] == 1
        assert "began" in lines[1]
        return lines[2:]


def lines_of(path: Path) -> list[Line]:
    """Every whole line of a tape."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def of(lines: list[Line], link: str, direction: str) -> list[str | bytes]:
    """The messages of one link that went one way, as they were on the wire."""
    return [
        base64.b64decode(line["data"]) if line["kind"] == "binary" else line["data"]
        for line in lines
        if (line.get("link"), line.get("dir")) == (link, direction) and "data" in line
    ]


def taped(tape: Tape, name: LinkName = "provider") -> tuple[MemoryLink, Link, list[str | bytes]]:
    """A link, the same on tape, and what the listener of that hears."""
    link, heard = MemoryLink(), cast("list[str | bytes]", [])
    wrapped = TapedLink(cast("Link", link), name, tape)
    wrapped.listen(Listener(heard.append, lambda: None, lambda: None))
    return link, wrapped, heard


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """Tapes in a folder that is yet to be made."""
    return Studio(tmp_path / "tapes")


# ------------------------------------------------------------- the format

_MESSAGES = st.lists(st.tuples(st.booleans(), st.text() | st.binary()), max_size=20)


@given(_MESSAGES, _MESSAGES)
def test_what_is_on_the_wire_is_on_the_tape(
    provider: list[tuple[bool, str | bytes]], realtime: list[tuple[bool, str | bytes]]
) -> None:
    """Any text and any bytes come back as they were, and reach the far side as they were."""
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Path(folder), mask=Mask())
        tape = studio.tape()
        wire: dict[tuple[str, str], list[str | bytes]] = {}
        for name, messages in (("provider", provider), ("realtime", realtime)):
            link, wrapped, heard = taped(tape, cast("LinkName", name))
            for is_in, message in messages:
                link.say(message) if is_in else wrapped.send(message)
            wire[name, "in"] = [message for is_in, message in messages if is_in]
            wire[name, "out"] = [message for is_in, message in messages if not is_in]
            assert (heard, link.sent) == (wire[name, "in"], wire[name, "out"])
        lines = studio.end(tape)

    for (name, direction), sent in wire.items():
        found = of(lines, name, direction)
        messages_there = [_as_taped(message, name) for message in sent]
        if name == "realtime":  # there text comes as its UTF-8 bytes: which it was, nobody knows
            assert list(map(_octets, found)) == list(map(_octets, messages_there))
        else:
            assert found == messages_there


def _as_taped(message: str | bytes, name: str) -> str | bytes:
    """Masked, as text always is; of the model's bytes, those that are text."""
    link = cast("LinkName", name)
    if isinstance(message, str):
        return masked(message, link)
    try:
        return masked(message.decode(), link) if link == "realtime" else message
    except UnicodeDecodeError:
        return Mask().octets(message)


def _octets(message: str | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.encode()


def test_text_of_the_model_is_text_and_other_bytes_are_binary(studio: Studio) -> None:
    """The model's side hands text over as bytes; on tape it can be read."""
    tape = studio.tape()
    link, _, _ = taped(tape, "realtime")
    link.say('{"type":"é"}'.encode())
    link.say(b"\xff\xfe")

    first, second, _ = studio.end(tape)

    assert (first["kind"], first["data"]) == ("text", '{"type":"é"}')
    assert (second["kind"], second["data"]) == ("binary", "//4=")


def test_the_first_and_last_line_say_what_was_recorded_and_how_it_ended(studio: Studio) -> None:
    """A reader learns from the ends of a tape all that the messages do not say."""
    lines = studio.end(studio.tape())
    first = lines_of(studio.ends[0].path)[0]

    assert list(first)[:4] == ["tape", "gateway", "call_id", "started_at"]
    assert first | HEAD == first
    assert lines == [
        {"t": lines[0]["t"], "end": {"result": "success", "reason": "caller_hangup"}, "lost": 0}
    ]
    assert studio.ends[0].path.name.endswith("Z-c1.jsonl")
    assert [path.name for path in studio.folder.iterdir()] == [studio.ends[0].path.name]


def test_only_the_owner_can_read_a_tape(studio: Studio) -> None:
    """Voices are personal data."""
    studio.end(studio.tape())

    assert studio.ends[0].path.stat().st_mode & 0o777 == 0o600
    assert studio.folder.stat().st_mode & 0o777 == 0o700


def test_two_links_are_on_one_tape_in_the_order_of_the_wire(studio: Studio) -> None:
    """What caused what can be read from top to bottom, and time does not run backwards."""
    tape = studio.tape()
    phone, _, _ = taped(tape, "provider")
    _, model, _ = taped(tape, "realtime")
    for number in range(3):
        phone.say(f"heard {number}")
        model.send(b"sent %d" % number)

    *lines, _ = studio.end(tape)

    assert [line["data"] for line in lines] == [
        f"{verb} {number}" for number in range(3) for verb in ("heard", "sent")
    ]
    times = [line["t"] for line in lines]
    assert times == sorted(times)
    assert [times[0], times[2], times[4]] == [times[1], times[3], times[5]]


def test_a_message_carries_the_time_at_which_the_call_heard_it(studio: Studio) -> None:
    """The clock's reading is the line's own number, to the bit; a timer that rang is noted too."""
    tape = studio.tape()
    link, heard, rang = MemoryLink(), cast("list[float]", []), cast("list[float]", [])
    wrapped = TapedLink(cast("Link", link), "provider", tape)
    assert tape.clock() == tape.now  # the call's first pass is the one it began in
    wrapped.listen(Listener(lambda _: heard.append(tape.clock()), lambda: None, lambda: None))
    for _ in range(50):
        link.say("x")
        rang.append(tape.clock())

    *lines, _ = studio.end(tape)

    assert [line["t"] for line in lines if "data" in line] == heard
    assert [line["t"] for line in lines if "rang" in line] == rang
    readings = [line["t"] for line in lines]
    assert readings == sorted(readings)
    assert all(round(reading * 1e6) / 1e6 == reading for reading in readings)


def test_a_timer_whose_doing_can_be_seen_needs_no_line(studio: Studio) -> None:
    """What is sent then carries the time at which the timer rang."""
    tape = studio.tape()
    _, wrapped, _ = taped(tape)
    tape.clock()  # the call's first pass
    at = tape.clock()
    wrapped.send("something")

    *lines, _ = studio.end(tape)

    assert [(line["t"], line["data"]) for line in lines] == [(at, "something")]


def test_dialling_stands_between_passes(studio: Studio) -> None:
    """It takes its time: what is decided later is not dated back, what rang before is told."""
    tape = studio.tape()
    tape.clock()  # the call's first pass
    at = tape.clock()
    tape.aside(link="realtime", dir="out", kind="dialled")
    now = tape.now

    rang, dialled, _ = studio.end(tape)

    assert rang == {"t": at, "rang": True}
    assert dialled["t"] >= at == now


def test_a_time_nobody_asked_for_is_not_told_later(studio: Studio) -> None:
    """A message the call does not want leaves the clock alone."""
    tape = studio.tape()
    link, _, _ = taped(tape)
    link.say("nobody reads the clock for this")
    noted = tape.now
    while tape.clock() == noted:
        pass

    assert tape.now > noted


# ------------------------------------------------------------- what is no message


async def test_a_link_passes_everything_on(studio: Studio) -> None:
    """Closing, clogging and failing look through the tape as they do without."""
    tape = studio.tape()
    link = MemoryLink()
    wrapped = TapedLink(cast("Link", link), "provider", tape)
    told: list[str] = []
    freed, left = (lambda: told.append("freed")), (lambda: told.append("left"))
    wrapped.listen(Listener(lambda _: None, freed, left))
    assert link.listener is not None
    link.is_clogged = True
    assert wrapped.is_clogged
    assert wrapped.is_clogged
    link.is_clogged = False
    link.listener.link_freed()
    told.append(f"clogged: {wrapped.is_clogged}")
    link.close_code, link.close_reason, link.is_gone = 1011, "no pong", True
    link.listener.link_closed()
    with pytest.raises(ConnectionResetError):
        wrapped.send("lost")
    await wrapped.close(1008, "enough")

    *lines, _ = studio.end(tape)

    assert (told, link.closed) == (["freed", "clogged: False", "left"], [(1008, "enough")])
    assert (wrapped.close_code, wrapped.close_reason) == (1011, "no pong")
    assert [{k: v for k, v in line.items() if k not in ("t", "link")} for line in lines] == [
        {"dir": "in", "kind": "clogged"},
        {"dir": "in", "kind": "freed"},
        {"dir": "in", "kind": "closed", "code": 1011, "reason": "no pong"},
        {"dir": "in", "kind": "shut"},
        {"dir": "out", "kind": "closed", "code": 1008, "reason": "enough"},
    ]


def test_what_a_closed_socket_did_not_take_is_told_once(studio: Studio) -> None:
    """Its end may be told much later: what was sent until then would be missing without a word."""
    tape = studio.tape()
    link, wrapped, _ = taped(tape, "realtime")
    link.say("first")
    wrapped.send("taken")
    link.is_gone = True
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            wrapped.send("lost")

    first, taken, shut, _ = studio.end(tape)

    assert (taken["data"], taken["t"]) == ("taken", first["t"])
    assert shut == {"t": first["t"], "link": "realtime", "dir": "in", "kind": "shut"}


def test_what_a_timer_notices_of_a_link_is_the_timers_doing(studio: Studio) -> None:
    """A link that is found free did not set the call going: the timer did."""
    tape = studio.tape()
    link, wrapped, _ = taped(tape)
    tape.clock()  # the call's first pass
    link.is_clogged = True
    seen = [wrapped.is_clogged]
    at = tape.clock()
    link.is_clogged = False
    seen.append(wrapped.is_clogged)

    assert seen == [True, False]
    *_, rang, freed, _ = studio.end(tape)

    assert rang == {"t": at, "rang": True}
    assert freed == {"t": at, "link": "provider", "dir": "in", "kind": "freed"}


async def test_a_link_that_was_left_is_on_tape_no_more(studio: Studio) -> None:
    """Closed once, whoever closes it again; what it takes now is not the next session's news."""
    tape = studio.tape()
    link, told = MemoryLink(), list[str]()
    wrapped = TapedLink(cast("Link", link), "realtime", tape)
    wrapped.listen(Listener(lambda _: None, lambda: told.append("freed"), lambda: None))
    await wrapped.close(1000)
    await wrapped.close(1000)
    assert link.listener is not None
    link.listener.link_freed()

    closed, _ = studio.end(tape)

    assert closed["kind"] == "closed"
    assert link.closed == [(1000, ""), (1000, "")]
    assert told == []


async def test_dialling_is_on_tape_with_what_came_of_it(studio: Studio) -> None:
    """A session that was refused, then one that was opened and is taped itself."""
    tape, link = studio.tape(), MemoryLink()
    outcomes: list[Link | ConnectError] = [
        ConnectError("429", "later", can_retry=True, retry_after_s=1.5),
        cast("Link", link),
    ]

    async def dial(*, timeout_s: float, with_fresh_token: bool) -> Link:
        del timeout_s, with_fresh_token
        outcome = outcomes.pop(0)
        if isinstance(outcome, ConnectError):
            raise outcome
        return outcome

    dial_on_tape = taped_dial(dial, tape)
    with pytest.raises(ConnectError, match="429: later"):
        await dial_on_tape(timeout_s=4.9, with_fresh_token=False)
    (await dial_on_tape(timeout_s=3.0, with_fresh_token=True)).send(b"hello")

    *lines, _ = studio.end(tape)

    told = [{k: v for k, v in line.items() if k not in ("t", "took_s", "link")} for line in lines]
    refused = {"result": "429", "can_retry": True, "retry_after_s": 1.5, "detail": "later"}
    assert told == [
        {"dir": "out", "kind": "dialled", "timeout_s": 4.9, "with_fresh_token": False},
        {"dir": "in", "kind": "refused", **refused},
        {"dir": "out", "kind": "dialled", "timeout_s": 3.0, "with_fresh_token": True},
        {"dir": "in", "kind": "opened"},
        {"dir": "out", "kind": "text", "data": "hello"},
    ]
    assert lines[3]["took_s"] >= 0
    assert link.sent == [b"hello"]


def test_a_call_ended_from_outside_says_so(studio: Studio) -> None:
    """Nothing on the wire would explain why we hang up."""
    tape = studio.tape()
    tape.hung_up("drain")

    line, _ = studio.end(tape)

    assert line == {"t": line["t"], "hang_up": "drain"}


def test_options_are_told_without_the_sound_of_prompts() -> None:
    """Of a prompt its length is told: its bytes are in the messages."""
    plain = plain_options(options(prompts={"apology": bytes(480)}))

    assert plain["prompts"] == {"apology": 480}
    assert plain["lead_ms"] == 5000


# ------------------------------------------------------------- what is hidden


def test_a_start_message_loses_its_token_and_its_numbers(tmp_path: Path) -> None:
    """A token is worth nothing after its call, and still no tape has it."""
    studio = Studio(tmp_path, mask=Mask())
    tape = studio.tape(token=TOKEN)
    link, _, heard = taped(tape)
    parameters = {"token": TOKEN, "from": "+15550100001", "to": "5550100002", "agent": "sales"}
    start = {"event": "start", "start": {"customParameters": parameters, "also": TOKEN}}
    link.say(json.dumps(start))
    link.say(f"MEDIA_START channel:x token:{TOKEN} caller:+15550100003")

    first, second, _ = studio.end(tape)

    hidden = {"token": "***", "from": "+11111111111", "to": "1111111111", "agent": "sales"}
    also = "*" * len(TOKEN)
    assert json.loads(first["data"])["start"] == {"customParameters": hidden, "also": also}
    assert second["data"] == "MEDIA_START channel:x token:*** caller:+11111111111"
    assert json.loads(str(heard[0])) == start


def test_the_first_line_and_peers_reasons_are_masked_too(tmp_path: Path) -> None:
    """Asterisk's parameters come with the upgrade; who closes may say anything."""
    studio = Studio(tmp_path, mask=Mask())
    url = "wss://example.com/asterisk/media?from=%2B15550100001&token=abc&mode=echo"
    tape = studio.tapes.tape("c1")
    call = {"session": {"instructions": "Call 5550100002"}, "lead_ms": 5000}
    tape.begin({"query": plain_query(url), "settings": {"call": call}})
    tape.heard(link="provider", dir="in", kind="closed", code=1000, reason="bye 5550100003")

    closed, _ = studio.end(tape)
    first = lines_of(studio.ends[0].path)[0]

    assert first["query"] == {"from": "+11111111111", "token": "***", "mode": "echo"}
    assert first["settings"]["call"]["session"]["instructions"] == "Call 1111111111"
    assert (first["settings"]["call"]["lead_ms"], first["call_id"]) == (5000, "c1")
    assert first["masks"] == ["secrets", "numbers"]
    assert (closed["reason"], closed["code"]) == ("bye 1111111111", 1000)


# ------------------------------------------------------------- announced


def test_nothing_is_kept_before_the_caller_knows(studio: Studio) -> None:
    """Until then nothing is on disk; then all is, the caller's sound excepted."""
    tape = studio.tapes.tape("c1")
    link, wrapped, _ = taped(tape)
    link.say(b"said before the call began")
    tape.begin(HEAD, hush=Hush("pcm"))
    link.say(b"said in between")
    wrapped.send(b"announcement")
    studio.tapes.write_waiting()
    assert not studio.folder.exists()
    tape.keep()
    link.say(b"said knowingly")
    tape.keep()
    tape.end(OVER)
    studio.tapes.write_waiting()

    lines = lines_of(studio.ends[0].path)
    kept = [base64.b64decode(line["data"]) for line in lines if "data" in line]
    assert kept == [bytes(26), bytes(15), b"announcement", b"said knowingly"]
    assert lines[-1]["lost"] == 0


def test_who_hangs_up_before_leaves_no_tape(studio: Studio) -> None:
    """Not even an empty one, and nothing is counted."""
    tape = studio.tapes.tape("c1")
    link, _, _ = taped(tape)
    tape.begin(HEAD, hush=Hush("ulaw"))
    link.say(b"x" * 100_000)
    tape.end(OVER)
    link.say(b"x" * 100_000)
    studio.tapes.write_waiting()

    assert (studio.folder.exists(), studio.ends, tape._bytes < BATCH_BYTES + 200_000) == (
        False,
        [],
        True,
    )


def test_what_is_held_back_is_bounded(tmp_path: Path) -> None:
    """A provider gone mad during the announcement costs the tape, not the memory."""
    studio = Studio(tmp_path, max_bytes=10**8)
    tape = studio.tapes.tape("c1")
    link, _, _ = taped(tape)
    tape.begin(HEAD, hush=Hush("ulaw"))
    for _ in range(100):
        link.say(b"x" * 100_000)
    held = tape._bytes
    tape.keep()

    *_, gap, end = studio.end(tape)

    assert held <= HELD_BYTES
    assert 10 < end["lost"] < 100
    assert (gap["lost"], sum(studio.losses)) == (end["lost"], end["lost"])


# ------------------------------------------------------------- bounds


def test_whoever_is_not_let_in_leaves_no_tape(studio: Studio) -> None:
    """Before the call is admitted nothing reaches the disk, and little stays in memory."""
    tape = studio.tapes.tape("stranger")
    link, _, heard = taped(tape)
    for _ in range(100):
        link.say("x" * 10_000)
    tape.end(OVER)
    studio.tapes.write_waiting()

    assert len(heard) == 100
    assert tape._bytes <= EARLY_BYTES
    assert not studio.folder.exists()


def test_what_was_early_is_on_the_tape_of_who_is_let_in(studio: Studio) -> None:
    """The start message comes before the call, and stands above it."""
    tape = studio.tapes.tape("guest")
    link, _, _ = taped(tape)
    link.say("start")
    tape.begin(HEAD)
    link.say("media")
    tape.end(OVER)
    studio.tapes.write_waiting()

    _, start, began, media, _ = lines_of(studio.ends[0].path)
    assert (start["data"], began["began"], media["data"]) == ("start", True, "media")


def test_what_the_writer_cannot_take_is_lost_and_counted(tmp_path: Path) -> None:
    """A disk that stands still costs the tape its messages, not the call, and no more memory."""
    studio = Studio(tmp_path, max_bytes=10**9)
    tape = studio.tape()
    link, _, heard = taped(tape)
    message = "x" * 1_000_000
    sent = 2 * MAX_WAITING_BYTES // len(message)
    for _ in range(sent):
        link.say(message)
    waiting = studio.tapes._taken_bytes - studio.tapes._done_bytes
    studio.tapes.write_waiting()
    link.say("after")

    lines = studio.end(tape)

    kept = len(of(lines, "provider", "in")) - 1
    assert len(heard) == sent + 1
    assert waiting < MAX_WAITING_BYTES + 100_000
    assert kept == MAX_WAITING_BYTES // 1_000_000
    gaps = [line["lost"] for line in lines if "lost" in line and "end" not in line]
    assert gaps == [sent - kept]
    assert lines[-1]["lost"] == sum(studio.losses) == sent - kept
    assert [line.get("data") for line in lines[-3:-1]] == [None, "after"]


def test_a_tape_has_its_last_line_however_much_waits(tmp_path: Path) -> None:
    """Even where the end of the call is lost, the tape is whole and says so."""
    studio = Studio(tmp_path, max_bytes=10**9)
    loud, tape = studio.tape(), studio.tape()
    room = MAX_WAITING_BYTES - studio.tapes._taken_bytes
    taped(loud)[0].say("x" * (room - 200))
    taped(tape)[0].say("lost")
    loud.end(OVER)

    gap, end = studio.end(tape)

    assert (gap["lost"], end["lost"], end["end"]["result"]) == (1, 1, "success")


def test_a_tape_that_grows_too_long_is_cut_and_says_so(tmp_path: Path) -> None:
    """It ends at a whole line, is complete by its own account, and the call goes on."""
    studio = Studio(tmp_path, max_bytes=100_000)
    tape = studio.tape()
    link, _, heard = taped(tape)
    for number in range(1000):
        link.say(f"{number:0500d}")
    tape.end(OVER)
    studio.tapes.write_waiting()

    (end,) = studio.ends
    *lines, cut = lines_of(end.path)
    assert end.result == "cut"
    assert cut["cut"] == {"max_bytes": 100_000}
    assert [int(text) for text in of(lines[1:], "provider", "in")] == list(range(len(lines) - 2))
    assert 99_000 < end.path.stat().st_size - len(json.dumps(cut)) <= 100_000
    assert (len(heard), studio.losses) == (1000, [])


# ------------------------------------------------------------- when the disk fails


def _on_full_disk(room_bytes: int) -> Callable[[Path], BinaryIO]:
    def open_file(path: Path) -> BinaryIO:
        path.parent.mkdir(exist_ok=True)
        return cast("BinaryIO", Full(path, room_bytes))

    return open_file


def _dev_full(_: Path) -> BinaryIO:
    return Path("/dev/full").open("wb", buffering=0)


@pytest.mark.parametrize("open_file", [_on_full_disk(0), _on_full_disk(9999), _dev_full])
def test_a_full_disk_ends_the_tape_and_nothing_else(
    tmp_path: Path, open_file: Callable[[Path], BinaryIO]
) -> None:
    """The call goes on, and what got through can be read up to the last whole line."""
    studio = Studio(tmp_path / "tapes", open_file=open_file)
    tape = studio.tape()
    link, wrapped, heard = taped(tape)
    for number in range(1000):
        link.say(f"{number:0500d}")
        wrapped.send("answer")
        studio.tapes.write_waiting()
    tape.end(OVER)
    studio.tapes.write_waiting()

    (end,) = studio.ends
    assert (end.result, end.detail) == ("failed", "OSError: [Errno 28] No space left on device")
    assert end.path.name.endswith(".jsonl.part")
    assert (len(heard), len(link.sent)) == (1000, 1000)
    if end.path.exists() and end.path.stat().st_size:
        assert lines_of(end.path)[0]["tape"] == 1


def test_a_tape_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    """A file that cannot be made, for one; text that no wire can carry, for another."""
    studio = Studio(tmp_path)
    unwritable, good = studio.tape(), studio.tape()
    link, _, _ = taped(unwritable)
    link.say("\ud800")
    unwritable.end(OVER)

    studio.end(good)

    assert [end.result for end in studio.ends] == ["failed", "ok"]
    assert studio.ends[0].detail.startswith("UnicodeEncodeError")


_CRASH = f"""
import os, signal, sys, time
from pathlib import Path
from gateway.tape.masking import Mask
from gateway.tape.record import Tapes
mask = Mask(hides_numbers=False)
tapes = Tapes(Path(sys.argv[1]), 10**9, print, print, mask=mask)
tapes.start()
tape = tapes.tape("c1")
tape.begin({{}})
for number in range(2000):
    tape.hear(0, f"{{number:0500d}}")
while not any(path.stat().st_size > {BATCH_BYTES} for path in Path(sys.argv[1]).glob("*")):
    time.sleep(0.005)  # the writer is a thread, and a file tells nobody that it grew
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_leaves_a_part_that_can_be_read(tmp_path: Path) -> None:
    """Killed in the middle of a call: every whole line is there and in order, under its name."""
    command = [sys.executable, "-c", _CRASH, str(tmp_path)]
    killed = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, timeout=30, check=False)

    (part,) = tmp_path.iterdir()
    first, began, *lines = lines_of(part)
    assert killed.returncode == -9
    assert part.name.endswith(".jsonl.part")
    assert (first["tape"], began["began"]) == (1, True)
    assert [int(text) for text in of(lines, "provider", "in")] == list(range(len(lines)))
    assert len(lines) > 50


# ------------------------------------------------------------- the thread


def test_the_thread_rests_between_two_batches(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls have the interpreter meanwhile; the more wait, the shorter it rests."""
    for _ in range(3):
        studio.tape()
    rests: list[tuple[float, int]] = []

    def wait(rest_s: float) -> bool:
        rests.append((rest_s, len(list(studio.folder.glob("*")))))
        return len(rests) == 5

    monkeypatch.setattr(studio.tapes._stop, "wait", wait)
    studio.tapes._run()

    # So long, and so many tapes on the disk by then.
    rest_s = PAUSE_S
    assert rests == [(rest_s / 3, 0), (rest_s / 2, 1), (rest_s, 2), (rest_s, 3), (rest_s, 3)]


@pytest.fixture
def blocked(tmp_path: Path) -> Iterator[tuple[Studio, threading.Event]]:
    """Tapes whose disk does not answer before the event is set."""
    answer = threading.Event()

    def open_file(path: Path) -> BinaryIO:
        answer.wait(30)
        return path.open("xb", buffering=0)

    yield Studio(tmp_path, open_file=open_file), answer
    answer.set()


def test_closing_writes_what_waits(studio: Studio) -> None:
    """The thread takes what it is given, to the last line."""
    studio.tapes.start()
    tape = studio.tape()
    link, _, _ = taped(tape)
    link.say("last words")
    tape.end(OVER)

    assert studio.tapes.close()
    (end,) = studio.ends
    assert of(lines_of(end.path)[2:], "provider", "in") == ["last words"]


def test_the_writer_is_no_nicer_than_the_calls(tmp_path: Path) -> None:
    """It has the interpreter now and then: whoever holds it up then holds up all calls."""
    priorities: list[int] = []

    def on_end(_: TapeEnd) -> None:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    tapes = Tapes(tmp_path, 1_000_000, on_end, lambda _: None)
    tapes.start()
    tape = tapes.tape("c-1")
    tape.begin({}, token="")
    tape.end(OVER)
    assert tapes.close()

    assert priorities == [os.getpriority(os.PRIO_PROCESS, 0)]


def test_closing_does_not_wait_for_a_disk_that_hangs(
    blocked: tuple[Studio, threading.Event],
) -> None:
    """A stop is bounded, and says that something is missing."""
    studio, answer = blocked
    studio.tapes.start()
    studio.tape().end(OVER)

    assert not studio.tapes.close(timeout_s=0.1)
    answer.set()
    assert studio.tapes.close(timeout_s=10)
    assert [end.result for end in studio.ends] == ["ok"]


def test_a_tape_without_an_end_is_let_go(studio: Studio) -> None:
    """A call that outlives its process leaves a part, and no open file."""
    studio.tapes.start()
    tape = studio.tape()

    assert studio.tapes.close()
    assert tape._reel is not None
    assert tape._reel._file is None
    assert [path.suffix for path in studio.folder.iterdir()] == [".part"]
