"""The ledger of what the caller has heard."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import ULAW_8K as ULAW
from gateway.events import AudioFormat, PlayAudio, ProviderCommand, SendMark
from gateway.playout import QUEUE_LIMIT_MS, Heard, Playout, PlayoutOptions


def _playout(**changes: object) -> Playout:
    usual: dict[str, object] = {"audio": ULAW, "lead_ms": 400}
    return Playout(PlayoutOptions(**(usual | changes)))  # type: ignore[arg-type]  # checked at run time


def _add(playout: Playout, item_id: str, duration_ms: float, *, is_done: bool = True) -> None:
    """Queue sound of an item, as a downlink does."""
    item = playout.add(item_id, "resp_1", 0, b"\x11" * round(duration_ms * 8))
    item.received_ms += duration_ms
    if is_done:
        playout.finish(item_id)


def _sizes_ms(commands: list[ProviderCommand]) -> list[float]:
    return [len(command.payload) / 8 for command in commands if isinstance(command, PlayAudio)]


def _marks(commands: list[ProviderCommand]) -> list[str]:
    return [command.name for command in commands if isinstance(command, SendMark)]


def _heard_ms(accounts: list[Heard]) -> dict[str, float]:
    """To the millisecond: a sum of floating-point seconds may lose a sample."""
    return {heard.item_id: round(heard.heard_ms) for heard in accounts}


# ---------------------------------------------------------------------- handing over


def test_audio_leaves_in_chunks_each_with_its_mark() -> None:
    """At most one mark interval of sound lies between two marks."""
    playout = _playout()
    _add(playout, "item_1", 250)
    commands = playout.release(0.0)

    assert _sizes_ms(commands) == [100, 100, 60]
    assert _marks(commands) == ["m1", "m2", "m3"]
    assert [type(command) for command in commands[:2]] == [PlayAudio, SendMark]


def test_the_last_frame_is_filled_with_silence() -> None:
    """A payload is always whole frames; the end of an item is padded, not cut."""
    playout = _playout()
    _add(playout, "item_1", 30)
    (audio, _) = playout.release(0.0)

    assert audio == PlayAudio(b"\x11" * 240 + b"\xff" * 80)


def test_silence_is_that_of_the_encoding() -> None:
    """Padding of linear audio is zero: of companded audio that would be a loud click."""
    playout = _playout(audio=AudioFormat("pcm", 8000))
    playout.add("item_1", "resp_1", 0, b"\x11")
    playout.finish("item_1")

    assert playout.release(0.0)[0] == PlayAudio(b"\x11" + b"\0" * 319)


def test_an_incomplete_frame_waits_for_the_rest() -> None:
    """While more of an item may come, nothing is padded."""
    playout = _playout()
    _add(playout, "item_1", 30, is_done=False)
    first = playout.release(0.0)
    _add(playout, "item_1", 10, is_done=False)

    assert _sizes_ms(first) == [20]
    assert _sizes_ms(playout.release(0.0)) == [20]


def test_another_item_ends_the_one_before() -> None:
    """Items do not share a frame: the first is padded when the second begins."""
    playout = _playout()
    _add(playout, "item_1", 30, is_done=False)
    _add(playout, "item_2", 20, is_done=False)

    assert _sizes_ms(playout.release(0.0)) == [40, 20]


def test_a_response_ends_all_its_items() -> None:
    """When an answer is over, none of its items waits for more; others do."""
    playout = _playout()
    _add(playout, "item_1", 30, is_done=False)
    playout.finish_response("resp_2")
    before = _sizes_ms(playout.release(0.0))
    playout.finish_response("resp_1")

    assert before == [20]
    assert _sizes_ms(playout.release(0.0)) == [20]


def test_audio_after_the_end_of_an_item_blocks_nobody() -> None:
    """A model that sends more of a finished item cannot stop what comes behind it."""
    playout = _playout()
    _add(playout, "item_1", 30)
    _add(playout, "item_1", 10)
    _add(playout, "item_2", 20)

    assert sum(_sizes_ms(playout.release(0.0))) == 80
    assert playout.queued_ms() == 0


def test_no_more_than_the_lead_leaves() -> None:
    """What the provider holds is bounded; the rest waits here, where it can be taken back."""
    playout = _playout()
    _add(playout, "item_1", 1000)

    assert sum(_sizes_ms(playout.release(0.0))) == 400
    assert playout.queued_ms() == 600
    assert playout.unheard_ms(0.0) == 1000


def test_half_a_lead_is_refilled_at_a_time() -> None:
    """Waking for every frame would cost more than it gives."""
    playout = _playout()
    _add(playout, "item_1", 1000)
    playout.release(0.0)
    playout.mark_reached("m1", 0.1)
    early = playout.release(0.1)
    playout.mark_reached("m2", 0.2)

    assert early == []
    assert sum(_sizes_ms(playout.release(0.2))) == 200


def test_a_payload_fits_the_providers_largest_message() -> None:
    """A chunk is cut to whole frames below the limit of one message."""
    playout = _playout(max_message_bytes=500)
    _add(playout, "item_1", 100)

    assert _sizes_ms(playout.release(0.0)) == [60, 40]


def test_the_moment_it_was_asked_belongs_to_the_first_chunk() -> None:
    """What the gateway added is measured once for each delta, not once for each chunk."""
    playout = _playout()
    _add(playout, "item_1", 300)
    commands = playout.release(5.0, 4.5)

    asked = [command.asked_at for command in commands if isinstance(command, PlayAudio)]
    assert asked == [4.5, 0.0, 0.0]


def test_a_full_provider_gets_nothing_until_it_asks() -> None:
    """Between XOFF and XON the audio waits here."""
    playout = _playout()
    _add(playout, "item_1", 100)
    playout.pause()
    while_full = playout.release(0.0)
    playout.resume()

    assert while_full == []
    assert _sizes_ms(playout.release(0.0)) == [100]


def test_minutes_of_queued_audio_are_a_fault() -> None:
    """More than the longest answer in the queue is told, so that it can be refused."""
    playout = _playout()
    _add(playout, "item_1", QUEUE_LIMIT_MS)
    was_full = playout.is_full()
    _add(playout, "item_1", 20)

    assert not was_full
    assert playout.is_full()


# ---------------------------------------------------------------------- what was heard


def test_a_mark_proves_what_was_heard() -> None:
    """From a mark on, the clock counts, and never past the mark that has not come back."""
    playout = _playout()
    _add(playout, "item_1", 300)
    playout.release(0.0)
    playout.mark_reached("m1", 0.25)

    assert playout.unheard_ms(0.25) == 200
    assert round(playout.unheard_ms(0.30)) == 150
    assert playout.unheard_ms(9.0) == 100


def test_a_mark_proves_all_before_it() -> None:
    """Marks that were lost on the way back are proven by a later one."""
    playout = _playout()
    _add(playout, "item_1", 300)
    playout.release(0.0)

    assert playout.mark_reached("m2", 0.3)
    assert playout.unheard_ms(0.3) == 100
    assert not playout.mark_reached("m1", 0.3)


def test_an_unknown_mark_proves_nothing() -> None:
    """A mark that was never sent, or was cleared, moves no account."""
    playout = _playout()
    _add(playout, "item_1", 300)
    playout.release(0.0)

    assert not playout.mark_reached("m99", 0.0)
    assert playout.unheard_ms(0.0) == 300


def test_an_item_is_accounted_for_when_it_was_played() -> None:
    """The account closes with the last mark, with what came and what was heard."""
    playout = _playout()
    _add(playout, "item_1", 90)
    playout.release(0.0)
    early = playout.collect(0.09)
    playout.mark_reached("m1", 0.12)

    assert early == []
    assert playout.collect(0.12) == [Heard("item_1", "resp_1", 0, 90, 90, is_done=True)]
    assert playout.is_drained(0.12)


def test_an_unfinished_item_stays_open() -> None:
    """While more may come the account is not closed, even when all of it was heard."""
    playout = _playout()
    _add(playout, "item_1", 100, is_done=False)
    playout.release(0.0)
    playout.mark_reached("m1", 0.1)

    assert playout.collect(0.1) == []
    assert playout.open_items() == ("item_1",)


def test_an_item_without_sound_closes_at_once() -> None:
    """An item that never had audio holds up nobody."""
    playout = _playout()
    _add(playout, "item_1", 0)

    assert _heard_ms(playout.collect(0.0)) == {"item_1": 0}


def test_sound_after_a_silence_starts_its_own_clock() -> None:
    """The time nobody spoke is not counted as heard speech."""
    playout = _playout()
    _add(playout, "item_1", 100)
    playout.release(0.0)
    playout.mark_reached("m1", 0.1)
    _add(playout, "item_2", 100)
    playout.release(5.0)

    assert playout.unheard_ms(5.0) == 100
    assert round(playout.unheard_ms(5.05)) == 50


# ---------------------------------------------------------------------- lost marks


def test_lost_marks_are_found_once() -> None:
    """A provider that returns no mark is noticed a second after one was due, and told once."""
    playout = _playout()
    _add(playout, "item_1", 200)
    playout.release(0.0)

    assert playout.next_timer() == 1.1
    assert not playout.timer_fired(1.0)
    assert playout.timer_fired(1.1)
    assert not playout.timer_fired(1.2)
    assert playout.marks_are_lost


def test_without_marks_the_clock_counts() -> None:
    """Heard is what was sent, as far as there was time to play it."""
    playout = _playout(has_marks=False)
    _add(playout, "item_1", 200)
    commands = playout.release(0.0)

    assert _marks(commands) == []
    assert playout.unheard_ms(0.15) == 50
    assert playout.next_timer() == 0.2
    assert _heard_ms(playout.collect(9.0)) == {"item_1": 200}
    assert playout.is_drained(9.0)


def test_without_marks_the_lead_is_refilled_by_the_clock() -> None:
    """Half a lead before the phone runs dry the call is woken."""
    playout = _playout(has_marks=False)
    _add(playout, "item_1", 1000)
    playout.release(0.0)

    assert playout.next_timer() == 0.2
    assert sum(_sizes_ms(playout.release(0.2))) == 200


def test_marks_that_never_come_do_not_let_the_phone_run_dry() -> None:
    """An answer that came at once, in pieces: until the loss is found, half a lead is ahead."""
    playout = _playout(lead_ms=5000)
    for _ in range(200):
        _add(playout, "item_1", 100, is_done=False)
        playout.release(0.0)
    now, ahead_ms = 0.0, []
    while not playout.marks_are_lost:
        now = playout.next_timer() or 0.0
        ahead_ms.append(20_000 - playout.queued_ms() - now * 1000)
        playout.timer_fired(now)
        playout.release(now)

    assert now == 2.6
    assert min(ahead_ms) >= 2400


def test_a_full_provider_wakes_nobody_for_a_refill() -> None:
    """What cannot be sent is no reason to look at the clock."""
    playout = _playout(has_marks=False)
    _add(playout, "item_1", 1000)
    playout.release(0.0)
    playout.pause()
    playout.release(0.3)

    assert playout.next_timer() == 0.4


def test_marks_that_come_back_are_trusted_again() -> None:
    """A pause of the provider is not held against it."""
    playout = _playout()
    _add(playout, "item_1", 200)
    playout.release(0.0)
    playout.timer_fired(1.1)
    playout.mark_reached("m1", 1.2)

    assert not playout.marks_are_lost
    assert playout.unheard_ms(1.2) == 100


def test_marks_that_never_come_are_not_all_remembered() -> None:
    """An endless answer over a provider without echoes keeps a bounded memory."""
    playout = _playout(lead_ms=100)
    for second in range(100):
        _add(playout, "item_1", 1000, is_done=False)
        for tenth in range(10):
            playout.release(second + tenth / 10)
            playout.timer_fired(second + tenth / 10)

    assert playout.marks_are_lost
    assert not playout.mark_reached("m1", 100.0)


# ---------------------------------------------------------------------- barge-in


def test_a_barge_in_forgets_the_queue_and_keeps_the_accounts() -> None:
    """What had not left is told at once; what was heard, when it is settled."""
    playout = _playout()
    _add(playout, "item_1", 1000)
    playout.release(0.0)
    playout.mark_reached("m1", 0.1)

    assert playout.clear(0.15) == 600
    assert playout.queued_ms() == 0
    assert playout.is_drained(0.15)
    assert _heard_ms(playout.settle()) == {"item_1": 150}
    assert playout.settle() == []


def test_each_item_of_a_barge_in_has_its_own_account() -> None:
    """The heard part is told item by item: all, a part, nothing."""
    playout = _playout()
    for item_id in ("item_1", "item_2", "item_3"):
        _add(playout, item_id, 100)
    playout.release(0.0)
    playout.mark_reached("m1", 0.1)
    playout.clear(0.15)

    assert _heard_ms(playout.settle()) == {"item_1": 100, "item_2": 50, "item_3": 0}


def test_the_providers_word_is_exact() -> None:
    """What the provider still held was not heard, whatever the clock thinks."""
    playout = _playout()
    _add(playout, "item_1", 400)
    playout.release(0.0)
    playout.clear(0.2)

    assert _heard_ms(playout.settle(120)) == {"item_1": 280}


def test_the_providers_word_cannot_undo_a_mark() -> None:
    """A provider that claims to hold what it has proved to have played is not believed."""
    playout = _playout()
    _add(playout, "item_1", 400)
    playout.release(0.0)
    playout.mark_reached("m3", 0.3)
    playout.clear(0.3)

    assert _heard_ms(playout.settle(10_000)) == {"item_1": 300}


def test_nothing_to_settle_is_no_account() -> None:
    """A late word of the provider closes no account twice."""
    playout = _playout()
    _add(playout, "item_1", 100)
    playout.clear(0.0)
    playout.settle()

    assert playout.settle(0) == []


def test_marks_of_what_was_cleared_prove_nothing() -> None:
    """A provider that echoes marks on a clear does not make us believe they were heard."""
    playout = _playout()
    _add(playout, "item_1", 200)
    playout.release(0.0)
    playout.clear(0.0)

    assert not playout.mark_reached("m2", 0.1)
    assert _heard_ms(playout.settle()) == {"item_1": 0}


def test_what_comes_after_a_barge_in_starts_afresh() -> None:
    """The next answer is counted from its own start."""
    playout = _playout()
    playout.pause()
    _add(playout, "item_1", 400)
    playout.release(0.0)
    playout.clear(0.1)
    playout.settle()
    _add(playout, "item_2", 100)

    assert _sizes_ms(playout.release(0.5)) == [100]
    assert playout.unheard_ms(0.55) == 50


def test_a_timer_is_not_left_behind_by_a_barge_in() -> None:
    """With nothing to play there is nothing to wake up for."""
    playout = _playout()
    _add(playout, "item_1", 400)
    playout.release(0.0)
    playout.clear(0.1)

    assert playout.next_timer() is None


def test_unsent_commands_were_never_heard() -> None:
    """What waits for the socket is taken back: sound, marks and place in the account."""
    playout = _playout()
    _add(playout, "item_1", 200)
    _add(playout, "item_2", 200)
    commands = playout.release(0.0)
    playout.mark_reached("m1", 0.1)

    assert playout.unsend(commands[2:]) == 300
    assert playout.unheard_ms(9.0) == 0
    assert not playout.mark_reached("m2", 9.0)
    playout.clear(9.0)
    assert _heard_ms(playout.settle()) == {"item_1": 100, "item_2": 0}


def test_nothing_unsent_changes_nothing() -> None:
    """A socket that keeps up has nothing to give back."""
    playout = _playout()
    _add(playout, "item_1", 200)
    playout.release(0.0)

    assert playout.unsend([]) == 0
    assert playout.unheard_ms(0.0) == 200


# ---------------------------------------------------------------------- the law of the timer

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("add", "finish", "release", "mark", "pause", "resume", "clear", "settle", "wait")
        ),
        st.integers(0, 700),
    ),
    max_size=60,
)


@given(st.booleans(), st.sampled_from((40, 400, 5000)), _STEPS)
def test_the_clock_never_stands_still(
    has_marks: bool,  # noqa: FBT001  # hypothesis draws it
    lead_ms: int,
    steps: list[tuple[str, int]],
) -> None:
    """Whatever happens: the timer is later than the call it answers, and no account is absurd."""
    playout = _playout(has_marks=has_marks, lead_ms=lead_ms)
    now = 0.0
    for step, figure in steps:
        now += 0.003 * (step == "wait") * figure
        _do(playout, step, figure, now)
        assert playout.unheard_ms(now) >= playout.queued_ms() >= 0
        playout.timer_fired(now)
        after = playout.next_timer()
        assert after is None or after > now


def _do(playout: Playout, step: str, figure: int, now: float) -> None:
    match step:
        case "add":
            _add(playout, f"item_{figure % 3}", figure, is_done=False)
        case "finish":
            playout.finish(f"item_{figure % 3}")
        case "mark":
            playout.mark_reached(f"m{figure % 20}", now)
        case "settle":
            for heard in playout.settle(figure):
                assert 0 <= heard.heard_ms <= heard.received_ms
        case "pause" | "resume":
            getattr(playout, step)()
        case "clear":
            playout.clear(now)
        case _:
            assert all(size % 20 == 0 for size in _sizes_ms(playout.release(now)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 999)), max_size=20))
def test_every_byte_leaves_once_in_order(parts: list[tuple[int, int]]) -> None:
    """Without an interruption the provider gets all of it, padded by less than a frame an item."""
    playout = _playout(has_marks=False)
    expected, received_ms, now = b"", 0.0, 0.0
    for number, (step, size) in enumerate(parts):
        payload = bytes([number + 1]) * size
        playout.add(f"item_{number // (step + 1)}", "resp_1", number, payload)
        expected += payload
        received_ms += size / 8
    playout.finish_response("resp_1")
    sent = b""
    while (commands := playout.release(now)) or not playout.is_drained(now):
        sent += b"".join(c.payload for c in commands if isinstance(c, PlayAudio))
        now += 0.1

    assert sent.replace(b"\xff", b"") == expected
    assert len(sent) / 8 - received_ms < 20 * max(len(parts), 1)
