from typing import final

@final
class Stream:
    def __new__(
        cls,
        weights: bytes,
        up: int,
        down: int,
        tail: int,
        decode: bytes | None,
        encode: bytes | None,
    ) -> Stream: ...
    def convert(self, payload: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...
    def reset(self) -> None: ...
