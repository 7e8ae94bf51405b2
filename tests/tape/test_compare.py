"""Differences are found, and shown like a good diff."""

from gateway.tape.compare import MOST_MATCHED, MOST_SHOWN, Exact, Shape, kind_of, shortened
from gateway.tape.passes import Sent
from gateway.tape.reading import Line
from gateway.tape.replay import Played

CAUSE = Line(1.0, "realtime", "in", "text", '{"type":"input_audio_buffer.speech_started"}')
CLEAR: Sent = ("provider", '{"event":"clear"}')
CANCEL: Sent = ("realtime", b'{"type":"response.cancel"}')
PER_MS = {"provider": 8, "realtime": 48}


def media(ms: int) -> Sent:
    """So much mu-law for the phone."""
    import base64  # noqa: PLC0415

    payload = base64.b64encode(b"\xff" * (8 * ms)).decode()
    return ("provider", f'{{"event":"media","media":{{"payload":"{payload}"}}}}')


def mark(name: str) -> Sent:
    """One mark."""
    return ("provider", f'{{"event":"mark","mark":{{"name":"{name}"}}}}')


def played(expected: list[Sent], came: list[Sent], t: float = 1.0) -> Played:
    """One pass."""
    return Played(t, CAUSE, expected, came, None)


def shape_of(*passes: Played) -> list[str]:
    """What differs in the shape."""
    shape = Shape()
    for one in passes:
        shape.watch(one)
    return [str(difference) for difference in shape.compare(PER_MS).differences]


def test_the_order_of_clear_and_cancel_is_named() -> None:
    """Where, why, what was expected, and what came."""
    exact = Exact()
    exact.watch(played([CLEAR, CANCEL], [CANCEL, CLEAR]))

    assert str(exact.found.differences[0]) == (
        "at 1.000000 s, when the model said input_audio_buffer.speech_started; before the call\n"
        '+ to the model: {"type":"response.cancel"}\n'
        '  to the provider: {"event":"clear"}\n'
        '- to the model: {"type":"response.cancel"}'
    )


def test_passes_that_have_nothing_in_common_are_one_difference() -> None:
    """Matched one by one, long ones would take minutes; what is alike at their ends is left out."""
    exact = Exact()
    was, is_now = [mark(f"a{n}") for n in range(MOST_MATCHED * 20)], [mark("b"), mark("c")] * 9000
    exact.watch(played([CLEAR, *was, CANCEL], [CLEAR, *is_now, CANCEL]))

    lines = exact.found.differences[0].lines
    assert lines[0].startswith('  to the provider: {"event":"clear"')
    assert lines[1].startswith('- to the provider: {"event":"mark","mark":{"name":"a0"}')
    assert lines[-2].startswith('+ to the provider: {"event":"mark","mark":{"name":"c"}')
    assert lines[-1].startswith('  to the model: {"type":"response.cancel"}')


def test_long_messages_are_shown_from_where_they_differ() -> None:
    """The beginning of a session's options says nothing about the tool at their end."""
    exact = Exact()
    words = "word " * 200
    was, is_now = (("realtime", f"{words}tool {name} and {words}") for name in ("one", "two"))
    exact.watch(played([was, CLEAR], [is_now, CLEAR]))

    first, second, _ = exact.found.differences[0].lines
    assert first.startswith("- to the model: ...")
    assert "tool one" in first
    assert second == first.replace("one", "two").replace("-", "+", 1)
    assert len(first) < 330


def test_equal_passes_are_no_difference() -> None:
    """Nor is text that was masked on tape, where the same mask makes it equal."""
    exact = Exact(lambda link, text: text.replace("4711", "9999") if link == "realtime" else text)
    exact.watch(played([CLEAR, CANCEL], [CLEAR, CANCEL]))
    exact.watch(played([("realtime", b"pin 9999")], [("realtime", b"pin 4711")]))

    assert exact.found.count == 0


def test_all_differences_are_counted_and_the_first_are_kept() -> None:
    """A call that goes another way differs everywhere; the first place is what matters."""
    exact = Exact()
    for number in range(50):
        exact.watch(played([CLEAR], [], float(number)))

    assert exact.found.count == 50
    assert [found.t for found in exact.found.differences] == [*map(float, range(MOST_SHOWN))]


def test_sound_is_shown_by_its_length_and_checksum() -> None:
    """Two frames that differ look different, and nobody reads base64."""
    sound = str(media(20)[1])
    one, other = shortened(sound), shortened(sound.replace("//", "/7", 1))

    assert one != other
    assert "<216 chars, " in one
    assert len(one) < 100
    assert shortened(bytes(320)).startswith("<320 bytes, ")
    assert shortened("word " * 100).endswith("...")


def test_kinds_have_the_names_of_the_wire() -> None:
    """JSON of either side, plain text, sound."""
    assert kind_of('{"type":"response.done","x":1}') == "response.done"
    assert kind_of('{"event":"clear"}') == "clear"
    assert kind_of('{"command":"HANGUP"}') == "HANGUP"
    assert kind_of("MARK_MEDIA m1") == "MARK_MEDIA"
    assert kind_of(b"\xff") == "audio"
    assert kind_of("{broken") == "unknown"


def test_the_same_sound_in_other_pieces_has_the_same_shape() -> None:
    """Marks among it depend on when the deltas came."""
    assert not shape_of(
        played([media(100), mark("m1"), media(100)], [media(60), media(140), mark("m2")])
    )
    assert not shape_of(played([media(100)], []), played([], [media(90)], 1.1))


def test_sound_of_another_length_has_another_shape() -> None:
    """Beyond the tolerance."""
    assert shape_of(played([media(500), CLEAR], [media(400), CLEAR])) == [
        "at 1.000000 s, to the provider\n- sound, 500 ms\n+ sound, 400 ms"
    ]


def test_another_order_has_another_shape() -> None:
    """On one link: across links nobody waits for anybody."""
    assert not shape_of(played([CLEAR, CANCEL], [CANCEL, CLEAR]))
    assert shape_of(played([media(500), CLEAR], [CLEAR, media(500)])) == [
        "at 1.000000 s, to the provider\n+ clear",
        "at 1.000000 s, to the provider\n- clear",
    ]


def test_undecodable_bytes_are_compared_as_bytes() -> None:
    """A model's side that is no text."""
    exact = Exact()
    exact.watch(played([("realtime", b"\xff")], [("realtime", b"\xfe")]))

    assert "<1 bytes" in str(exact.found.differences[0])
