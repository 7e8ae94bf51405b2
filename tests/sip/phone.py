"""A real SIP phone: baresip, which speaks a WAV into the line and records both directions."""

import asyncio
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sip.ports import free_ports
from tests.sip.programs import start, stop

RATE_HZ = 8000
# baresip hangs up when its WAV ends, so silence follows the words for longer than any test's call.
_LONGEST_CALL_S = 120
_START_S = 10
_RTP_PORTS = 20
# Larger than any event of baresip; a length beyond it is not one.
_LARGEST_EVENT_BYTES = 65_536

_CONFIG = """
poll_method epoll
sip_listen 127.0.0.1:{sip_port}
ctrl_tcp_listen 127.0.0.1:{control_port}
rtp_ports {rtp_first}-{rtp_last}
audio_source aufile,{says}
audio_player aubridge,nowhere
audio_alert aubridge,nowhere
ausrc_srate {rate_hz}
auplay_srate {rate_hz}
ausrc_channels 1
auplay_channels 1
ausrc_format s16
auplay_format s16
audio_txmode thread
audio_level no
jitter_buffer_type fixed
jitter_buffer_delay 1-5
rtp_timeout 60
snd_path {folder}
module_path {modules}
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module ctrl_tcp.so
module_tmp account.so
module_app menu.so
"""

_MODULES = Path("/usr/lib/baresip/modules")
# One key: a press, then long enough without one for the far end to tell two of the same apart.
_KEY_S = 0.25


@dataclass(slots=True)
class Phone:
    """One phone, good for one call."""

    folder: Path
    log_file: Path
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _events: list[dict[str, Any]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def call(self, number: str, sip_port: int) -> None:
        """Dial a number at a PBX of this machine; returns when the call is answered.

        Raises:
            RuntimeError: The call was turned away; with the PBX's reason.
            TimeoutError: Nobody answered in ten seconds.
        """
        await self._command("dial", f"sip:{number}@127.0.0.1:{sip_port}")
        event = await self._wait("CALL_ESTABLISHED", "CALL_CLOSED", timeout_s=_START_S)
        if event["type"] == "CALL_CLOSED":
            raise RuntimeError(f"the call to {number} was turned away: {event.get('param')}")

    async def press(self, keys: str) -> None:
        """Send each key as an RFC 4733 event, the way a telephone does."""
        for key in keys:
            await self._command("sndcode", key)
            await asyncio.sleep(_KEY_S)

    async def hang_up(self) -> None:
        """End the call from this side; returns when it has ended."""
        await self._command("hangup")
        await self.hung_up(_START_S)

    async def hung_up(self, timeout_s: float) -> str:
        """Wait until the call has ended, by whichever side; the reason as SIP gives it."""
        event = await self._wait("CALL_CLOSED", timeout_s=timeout_s)
        return str(event.get("param", ""))

    def heard_pcm(self) -> bytes:
        """All the caller heard, once the call has ended."""
        return self._recording("dec")

    def said_pcm(self) -> bytes:
        """All the caller's microphone gave, once the call has ended."""
        return self._recording("enc")

    def _recording(self, direction: str) -> bytes:
        path = next(self.folder.glob(f"dump-*-{direction}.wav"))
        # The header is finished when the call has ended; what counts is what is in the file.
        with wave.open(str(path), "rb") as recording:
            return recording.readframes(recording.getnframes())

    async def _command(self, command: str, params: str = "") -> None:
        message = json.dumps({"command": command, "params": params}).encode()
        self._writer.write(b"%d:%s," % (len(message), message))
        await self._writer.drain()

    async def _wait(self, *types: str, timeout_s: float) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s), self._changed:
            while True:
                for event in self._events:
                    if event.get("type") in types:
                        return event
                await self._changed.wait()

    async def read_events(self) -> None:
        """Take in what baresip reports until it closes the line: netstrings of JSON."""
        while head := await self._reader.readuntil(b":"):
            length = min(int(head[:-1]), _LARGEST_EVENT_BYTES)
            text = (await self._reader.readexactly(length + 1))[:-1]
            async with self._changed:
                self._events.append(json.loads(text))
                self._changed.notify_all()


@asynccontextmanager
async def ready_phone(folder: Path, says_pcm: bytes) -> AsyncIterator[Phone]:
    """Start a phone that will say ``says_pcm`` (16-bit, 8 kHz, mono) when its call is answered."""
    control_port = _configure(folder, says_pcm)
    log_file = folder / "baresip.log"
    process = await start(log_file, "baresip", "-f", str(folder))
    try:
        reader, writer = await _connected(control_port, log_file)
        phone = Phone(folder, log_file, reader, writer)
        reading = asyncio.create_task(phone.read_events())
        try:
            yield phone
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            writer.close()
    finally:
        await stop(process)


def _configure(folder: Path, says_pcm: bytes) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    says = folder / "says.wav"
    with wave.open(str(says), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(says_pcm + bytes(2 * RATE_HZ * _LONGEST_CALL_S))
    sip_port, rtp = free_ports(2)
    control_port = free_ports(1)[0]
    rtp_first = min(rtp, 65_000 - _RTP_PORTS) & ~1
    config = _CONFIG.format(
        sip_port=sip_port,
        control_port=control_port,
        rtp_first=rtp_first,
        rtp_last=rtp_first + _RTP_PORTS,
        says=says,
        rate_hz=RATE_HZ,
        folder=folder,
        modules=_MODULES,
    )
    account = "<sip:caller@127.0.0.1>;regint=0;audio_codecs=pcmu/8000/1;dtmfmode=rtpevent\n"
    for name, text in {"config": config, "accounts": account, "contacts": ""}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return control_port


async def _connected(
    port: int, log_file: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Reach baresip's control port as soon as it listens.

    Raises:
        RuntimeError: It does not; names the file with what baresip said.
    """
    for _ in range(int(_START_S / 0.05)):
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
    raise RuntimeError(f"baresip did not start, see {log_file}")
