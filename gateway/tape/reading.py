"""Reads tapes, some lines at a time: the longest line bounds the memory, whatever the file is."""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

import msgspec

from gateway.errors import TapeError
from gateway.realtime import Dialect
from gateway.tape import FORMAT
from gateway.tape.sounds import Sound

# The model's longest message is 16 MiB; escaped and wrapped it is not twice as long.
MAX_LINE_BYTES: Final = 32 * 1024 * 1024
# Of larger blocks an allocator asks the system for each anew: that is a fifth of reading.
_READ_BYTES: Final = 64 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
# Longer than any call; adding a second to it still makes a difference.
LONGEST_S: Final = 1_000_000.0
_DAMAGED: Final = (zlib.error, gzip.BadGzipFile)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)

_Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=LONGEST_S)]


class HeadSettings(msgspec.Struct, frozen=True):
    """What changes a call's behaviour: ``call`` holds the fields of ``CallOptions``."""

    call: dict[str, Any] = {}
    start_deadline_s: _Seconds = 5.0
    send_timeout_s: _Seconds = 5.0


class Head(msgspec.Struct, frozen=True):
    """The first line of a tape (members: ``gateway.tape``)."""

    tape: int
    provider: str
    dialect: Dialect
    gateway: str = ""
    call_id: str = ""
    agent: str = ""
    started_at: str = ""
    unix_offset_s: float = 0.0
    query: Mapping[str, str] = {}
    masks: tuple[str, ...] = ()
    sounds: Mapping[str, Sound] = {}
    settings: HeadSettings = HeadSettings()
    trace_id: str = ""
    renewed_by: str = ""
    renewed_at: str = ""
    shrunk_by: str = ""
    shrunk_at: str = ""


class Ending(msgspec.Struct, frozen=True):
    """How the call ended."""

    result: str
    reason: str


class Line(msgspec.Struct, gc=False):
    """Any line but the first (members: ``gateway.tape``); what a line has not keeps its default."""

    t: _Seconds
    link: str = ""
    dir: str = ""
    kind: str = ""
    data: str | None = None
    code: int = 0
    reason: str = ""
    timeout_s: float = 0.0
    with_fresh_token: bool = False
    took_s: float = 0.0
    result: str = ""
    can_retry: bool = False
    retry_after_s: float = 0.0
    detail: str = ""
    began: bool = False
    rang: bool = False
    hang_up: str = ""
    stopped: bool = False
    lost: int = 0
    end: Ending | None = None
    cut: dict[str, int] | None = None

    @property
    def message(self) -> str | bytes:
        """What was on the wire.

        Raises:
            TapeError: the bytes of a binary message cannot be read.
        """
        data = self.data or ""
        if self.kind != "binary":
            return data
        try:
            # As strict as binascii, and three times as fast.
            return msgspec.convert(data, bytes)
        except msgspec.ValidationError as error:
            raise TapeError(f"at {self.t:.6f} s: binary data that is not base64: {error}") from None


class Tape:
    """A tape that is open for reading: its ``head``, then its lines, once.

    ``is_whole`` is known when all lines were read: whether the last one says how the call ended.
    A tape that was cut short is read up to its last whole line.

    Raises:
        TapeError: no such file, no tape, one of a newer format, or (while reading) a line that is
            no line of a tape; the message names file and line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_whole = False
        self._number = 0
        # Lines that were read and not looked at yet, the beginning of one, and the latest lines.
        self._waiting = self._rest = self._block = b""
        self._raws: list[bytes] = []
        self._place = 0
        try:
            self._source = self.path.open("rb")
            self._file = _unpacked(self._source)
        except OSError as error:
            raise TapeError(f"{self.path}: {error.strerror or error}") from None
        try:
            self.head = self._read_head()
        except TapeError:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._source.close()

    @property
    def raw(self) -> bytes:
        """The line read last, as it stands in the file."""
        self._raws = self._raws or self._block.split(b"\n")
        return self._raws[self._place] + b"\n"

    def __iter__(self) -> Iterator[Line]:
        decoder = msgspec.json.Decoder(Line)
        while block := self._next_block():
            self._block, self._raws = block, []
            for place, line in enumerate(self._decoded(decoder, block)):
                self._place = place
                yield line
                if line.end is not None or line.cut is not None:
                    self.is_whole = True
                    self._read()  # a packed file tells at its end whether it is sound
                    return
            self._number += self._place + 1

    def _decoded(self, decoder: "msgspec.json.Decoder[Line]", block: bytes) -> Iterable[Line]:
        """All lines of a block at once; one by one where that tells which one is bad."""
        try:
            lines = decoder.decode_lines(block)
        except _UNREADABLE:
            return self._one_by_one(decoder, block)
        return lines if len(lines) == block.count(b"\n") else self._one_by_one(decoder, block)

    def _one_by_one(self, decoder: "msgspec.json.Decoder[Line]", block: bytes) -> Iterator[Line]:
        for number, raw in enumerate(block.split(b"\n")[:-1], self._number + 1):
            try:
                line = decoder.decode(raw)
            except _UNREADABLE as error:
                raise self._bad(f"no line of a tape: {error}", number) from None
            yield line

    def _read_head(self) -> Head:
        raw, _, self._waiting = self._next_block().partition(b"\n")
        self._block, self._number = raw + b"\n", 1
        try:
            version = msgspec.json.decode(raw, type=_Version)
        except _UNREADABLE:
            raise TapeError(f"{self.path}: this is no tape") from None
        if version.tape != FORMAT:
            raise TapeError(
                f"{self.path}: a tape of format {version.tape}, made by gateway "
                f"{version.gateway}; this gateway reads format {FORMAT}: take that gateway"
            )
        try:
            return msgspec.json.decode(raw, type=Head)
        except _UNREADABLE as error:
            raise self._bad(str(error), 1) from None

    def _next_block(self) -> bytes:
        """The next whole lines; none at the end, and where the file was cut short."""
        if self._waiting:
            block, self._waiting = self._waiting, b""
            return block
        pieces = [self._rest]
        size = len(self._rest)
        while piece := self._read():
            end = piece.rfind(b"\n") + 1
            if size + (piece.find(b"\n") if end else len(piece)) > MAX_LINE_BYTES:
                raise self._bad(f"longer than {MAX_LINE_BYTES} bytes", self._number + 1)
            if end:
                self._rest = piece[end:]
                return b"".join((*pieces, piece[:end]))
            pieces.append(piece)
            size += len(piece)
        return b""

    def _read(self) -> bytes:
        """What comes next, much or little; nothing at the end."""
        try:
            return self._file.read1(_READ_BYTES)
        except EOFError:
            return b""
        except _DAMAGED as error:
            raise self._bad(f"damaged: {error}", self._number + 1) from None
        except OSError as error:
            raise TapeError(f"{self.path}: {error.strerror or error}") from None

    def _bad(self, why: str, number: int) -> TapeError:
        return TapeError(f"{self.path}, line {number}: {why}")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What is wrong with a tape begins with the tape's name."""
    try:
        yield
    except TapeError as error:
        text, name = str(error), str(path)
        raise TapeError(text if text.startswith(name) else f"{name}: {text}") from None


class _Version(msgspec.Struct):
    tape: int
    gateway: str = "?"


def _unpacked(source: io.BufferedReader) -> io.BufferedReader | gzip.GzipFile:
    is_packed = source.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    source.seek(0)
    return gzip.GzipFile(fileobj=source) if is_packed else source
