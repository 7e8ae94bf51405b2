"""The webhook's signature and its answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from gateway.errors import PeerRefused
from gateway.simulator.callplan import CallPlan
from gateway.simulator.twilio_line import TwilioCall
from gateway.simulator.twilio_webhook import read_answer, sign, signed_url, webhook_form

ANSWER = (
    '<?xml version="1.0"?><Response><Connect><Stream url="wss://g/twilio/media" name="x">'
    '<Parameter name="token" value="a&amp;b"/></Stream></Connect><Hangup/></Response>'
)


def test_the_signature_of_the_official_package() -> None:
    """The vector of Twilio's own test comes out."""
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
        "Caller": "+14158675309",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert sign("12345", url, form) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


@given(form=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4))
def test_twilios_own_validator_accepts_our_signature(form: dict[str, str]) -> None:
    """Whatever the form, the official package agrees."""
    url = "https://gateway.example/twilio/voice"
    assert RequestValidator("secret").validate(url, form, sign("secret", url, form))


def test_the_url_that_is_signed() -> None:
    """Behind a proxy the public address counts, with the path and query of the request."""
    local = "http://127.0.0.1:8080/twilio/voice?a=1"
    assert signed_url(local, "") == local
    assert signed_url(local, "https://pub.example/") == "https://pub.example/twilio/voice?a=1"


def test_the_form_says_who_calls() -> None:
    """From and To of the plan, the ids of the call."""
    form = webhook_form(CallPlan(from_number="+1", to_number="+2"), TwilioCall(call_sid="CA9"))
    assert (form["From"], form["To"], form["CallSid"]) == ("+1", "+2", "CA9")


def test_reading_the_answer() -> None:
    """Address and parameters of the stream come out unescaped."""
    stream = read_answer(200, ANSWER)
    assert stream.url == "wss://g/twilio/media"
    assert stream.parameters == {"token": "a&b"}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, "forbidden", "403: forbidden"),
        (200, "not xml", "no XML"),
        (200, '<Response><Reject reason="busy"/></Response>', 'reason="busy"'),
        (200, "<Response><Connect><Stream/></Connect></Response>", "no stream"),
    ],
)
def test_answers_that_connect_nothing(status: int, body: str, said: str) -> None:
    """The error repeats what the gateway said."""
    with pytest.raises(PeerRefused, match=said):
        read_answer(status, body)
