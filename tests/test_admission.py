"""Places are counted, call ids are unique, and a token is good once, for one call, for a minute."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import TOKEN_LIFE_S, OwnAdmission, Places, Tokens, UsedTokens
from gateway.errors import AuthRejected, CallRejected

NOW = 1_800_000_000.0


class _Door(Tokens):
    """Tokens with the memory of which were used."""

    def __init__(self, key: bytes | None = None) -> None:
        super().__init__(key)
        self.used = UsedTokens()


def _refusal(door: _Door, token: str, call_id: str = "CA1", now: float = NOW) -> str:
    """Why a token is not accepted, "" when it is."""
    try:
        door.used.use(door.prove(token, call_id, now), now)
    except AuthRejected as rejected:
        return rejected.kind
    return ""


# ------------------------------------------------------------- tokens


def test_a_token_is_good_once() -> None:
    """The second use is a replay, in whatever order calls come."""
    tokens = _Door()
    first, second = tokens.mint("CA1", NOW), tokens.mint("CA1", NOW)

    assert first != second
    assert _refusal(tokens, second) == ""
    assert _refusal(tokens, first) == ""
    assert _refusal(tokens, first) == _refusal(tokens, second) == "replay"


def test_a_token_is_bound_to_its_call() -> None:
    """Another call cannot use it, and does not spoil it by trying."""
    tokens = _Door()
    token = tokens.mint("CA1", NOW)

    assert _refusal(tokens, token, "CA2") == "mismatch"
    assert _refusal(tokens, token, "CA1") == ""


def test_a_token_lives_a_minute() -> None:
    """It is good until its last moment and not after, even when it was used and forgotten."""
    tokens = _Door()
    early, late = tokens.mint("CA1", NOW), tokens.mint("CA1", NOW)

    assert TOKEN_LIFE_S <= 60
    assert _refusal(tokens, early, now=NOW + TOKEN_LIFE_S) == ""
    assert _refusal(tokens, early, now=NOW + TOKEN_LIFE_S) == "replay"
    assert _refusal(tokens, late, now=NOW + TOKEN_LIFE_S + 0.1) == "expired"
    assert _refusal(tokens, early, now=NOW + 2 * TOKEN_LIFE_S) == "expired"


def test_no_token_is_missing_and_another_process_has_another_key() -> None:
    """An empty token says so; one that somebody else minted is a forgery."""
    assert _refusal(_Door(), "") == "missing"
    assert _refusal(_Door(), _Door().mint("CA1", NOW)) == "signature"
    assert _refusal(_Door(b"k" * 32), _Door(b"k" * 32).mint("CA1", NOW)) == ""


@given(st.one_of(st.text(), st.binary(max_size=80).map(lambda raw: base64.b64encode(raw).decode())))
def test_nothing_made_up_gets_in(token: str) -> None:
    """Whatever is sent as a token is refused with a kind, never with a crash."""
    assert _refusal(_Door(), token) in {"missing", "signature"}


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_bit_of_a_token_can_be_changed(place: int, mask: int) -> None:
    """Expiry, nonce and seal are all covered."""
    tokens = _Door(b"k" * 32)
    raw = bytearray(base64.urlsafe_b64decode(tokens.mint("CA1", NOW)))
    raw[place % len(raw)] ^= mask

    assert _refusal(tokens, base64.urlsafe_b64encode(raw).decode()) == "signature"


def test_used_tokens_are_forgotten_when_they_have_expired() -> None:
    """Memory holds a minute's worth, however many calls came before."""
    tokens = _Door()
    for second in range(500):
        now = NOW + second
        assert _refusal(tokens, tokens.mint("CA1", now), now=now) == ""

    assert len(tokens.used._used) <= TOKEN_LIFE_S + 1


# ------------------------------------------------------------- places


def _reason(admission: Places) -> str:
    try:
        admission.check()
    except CallRejected as rejected:
        return f"{rejected.stage}: {rejected.reason}"
    return ""


def test_waiting_sockets_and_calls_share_the_places() -> None:
    """A socket that has not spoken takes a place; a call keeps it until its end."""
    admission = Places(2)
    admission.wait()
    admission.begin("twilio", "CA1")

    assert _reason(admission) == "admission: capacity"
    with pytest.raises(CallRejected):
        admission.wait()
    admission.stop_waiting()
    assert _reason(admission) == ""
    admission.wait()
    admission.end("twilio", "CA1")
    assert _reason(admission) == ""
    assert admission.calls == 0


def test_a_running_call_is_not_taken_twice() -> None:
    """The same id is refused while the call runs, and welcome afterwards or elsewhere."""
    admission = Places(10)
    admission.begin("twilio", "CA1")

    with pytest.raises(CallRejected) as raised:
        admission.begin("twilio", "CA1")
    admission.begin("asterisk", "CA1")
    admission.end("twilio", "CA1")
    admission.end("twilio", "CA1")
    admission.begin("twilio", "CA1")

    assert (raised.value.stage, raised.value.reason) == ("admission", "duplicate_call")
    assert admission.calls == 2


def test_nobody_is_taken_while_draining() -> None:
    """Draining comes before capacity: it is the reason that will not go away."""
    admission = Places(0, is_draining=True)

    assert _reason(admission) == "admission: drain"


# ------------------------------------------------------------- a process alone


async def test_a_process_alone_decides_on_the_spot() -> None:
    """The lobby's contract over one process: a used token opens nothing, not even another call."""
    tokens, admission = Tokens(), OwnAdmission(1)
    proof = tokens.prove(tokens.mint("CA1", NOW), "CA1", NOW)
    await admission.wait()
    assert admission.is_waited_for
    with pytest.raises(CallRejected, match="capacity"):
        await admission.check()
    admission.stop_waiting()
    await admission.begin("twilio", "CA1", proof, NOW)
    with pytest.raises(AuthRejected) as replayed:
        await admission.begin("twilio", "CA2", proof, NOW)
    with pytest.raises(CallRejected, match="duplicate_call"):
        await admission.begin("twilio", "CA1", None, NOW)

    assert replayed.value.kind == "replay"
    assert (admission.calls, admission.is_waited_for) == (1, False)
    admission.end("twilio", "CA1")
    await admission.check()
    admission.is_draining = True
    with pytest.raises(CallRejected, match="drain"):
        await admission.wait()
