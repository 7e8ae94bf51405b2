"""The agent's audio on its way to the caller: converted, into the ledger, never late.

Audio of an answer that was interrupted is dropped by the ids of its response, not by a timer,
because a model goes on sending for a while after it was told to stop.
"""

from collections import deque

from gateway.audio.convert import Converter
from gateway.events import PCM_24K, AudioDelta, AudioFormat, ProviderCommand
from gateway.playout import Item, Playout, PlayoutOptions

# Interrupted responses remembered; late audio of one older than this does not exist.
CANCELLED_KEPT = 64
# What the account of a local recording is called, before the recording's name.
PROMPT_ITEM = "prompt:"


class Downlink:
    """Converts agent audio and feeds the playout ledger."""

    def __init__(self, session_audio: AudioFormat, options: PlayoutOptions) -> None:
        self.playout = Playout(options)
        self._session_audio = session_audio
        self._converter = _converter(session_audio, options.audio)
        self._audio_out = options.audio
        self._item: tuple[str, str, int] | None = None
        self._cancelled: deque[str] = deque(maxlen=CANCELLED_KEPT)

    def is_cancelled(self, response_id: str) -> bool:
        """Whether this answer was interrupted."""
        return response_id in self._cancelled

    def cancel(self, response_id: str) -> None:
        """Drop whatever still comes of this answer."""
        if response_id and response_id not in self._cancelled:
            self._cancelled.append(response_id)

    def duration_ms(self, payload: bytes) -> float:
        """How long a payload of the model is."""
        return len(payload) / self._session_audio.bytes_per_ms

    def accept(self, delta: AudioDelta) -> Item:
        """Queue a delta; the first of another item ends the one before. Returns its account."""
        key = (delta.item_id, delta.response_id, delta.content_index)
        if self._item != key:
            self.end_item()
            self._item = key
        item = self.playout.add(*key, self._converter.convert(delta.payload))
        item.received_ms += self.duration_ms(delta.payload)
        return item

    def end_item(self) -> None:
        """No more audio comes for the present item: let out the filter's tail."""
        if self._item is None:
            return
        self.playout.add(*self._item, self._converter.flush())
        self.playout.finish(self._item[0])
        self._item = None

    def end_response(self, response_id: str) -> None:
        """No more audio comes for this answer."""
        if self._item is not None and self._item[1] == response_id:
            self.end_item()
        self.playout.finish_response(response_id)

    def forget(self) -> None:
        """After a barge-in: nothing of the present item may colour what comes next."""
        self._converter.reset()
        self._item = None

    def play_prompt(self, name: str, pcm: bytes, now: float) -> list[ProviderCommand]:
        """Queue a local recording (24 kHz PCM) behind what is there."""
        converter = _converter(PCM_24K, self._audio_out)
        payload = converter.convert(pcm) + converter.flush()
        item = self.playout.add(PROMPT_ITEM + name, "", 0, payload)
        item.received_ms = len(pcm) / PCM_24K.bytes_per_ms
        self.playout.finish(item.item_id)
        return self.playout.release(now)


def _converter(source: AudioFormat, target: AudioFormat) -> Converter:
    return Converter(source.encoding, source.rate_hz, target.encoding, target.rate_hz)
