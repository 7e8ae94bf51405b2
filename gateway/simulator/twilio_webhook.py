"""The HTTP half of a Twilio call: the signed answer webhook; the document it gives back.

Signature: base64 of HMAC-SHA1, keyed with the account's auth token, over the full URL followed by
each form field in name order as name and value without separators
(twilio.com/docs/usage/security#validating-requests).
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from gateway.errors import PeerRefused
from gateway.simulator.callplan import CallPlan
from gateway.simulator.twilio_line import TwilioCall

_MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class ConnectStream:
    """What ``<Connect><Stream>`` says."""

    url: str
    parameters: Mapping[str, str]


def sign(token: str, url: str, form: Mapping[str, str] | None = None) -> str:
    """The value of ``X-Twilio-Signature``; an upgrade has no form."""
    text = url + "".join(name + value for name, value in sorted((form or {}).items()))
    digest = hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def signed_url(url: str, public_url: str) -> str:
    """The URL a signature is made for: ``url`` as the public base address knows it."""
    if not public_url:
        return url
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{public_url.rstrip('/')}{parts.path}{query}"


def webhook_form(plan: CallPlan, call: TwilioCall) -> dict[str, str]:
    """The form that Twilio posts when a call comes in."""
    return {
        "AccountSid": call.account_sid,
        "ApiVersion": "2010-04-01",
        "CallSid": call.call_sid,
        "CallStatus": "ringing",
        "Called": plan.to_number,
        "Caller": plan.from_number,
        "CallerCity": "",
        "Direction": "inbound",
        "From": plan.from_number,
        "To": plan.to_number,
    }


def read_answer(status: int, body: str) -> ConnectStream:
    """Read the answer to the webhook.

    Raises:
        PeerRefused: it is no TwiML that connects the call to a stream; says what it was.
    """
    if status != 200:  # noqa: PLR2004 - HTTP's own number
        raise PeerRefused(f"the webhook answered {status}: {body[:_MAX_SHOWN]}")
    try:
        # expat expands no external entity; the gateway under test is not an attacker.
        root = ET.fromstring(body)  # noqa: S314
    except ET.ParseError as error:
        raise PeerRefused(f"the webhook gave no XML ({error}): {body[:_MAX_SHOWN]}") from error
    stream = root.find("Connect/Stream")
    if stream is None or not stream.get("url"):
        raise PeerRefused(f"the webhook connects to no stream: {body[:_MAX_SHOWN]}")
    parameters = {
        each.get("name", ""): each.get("value", "") for each in stream.findall("Parameter")
    }
    return ConnectStream(stream.get("url", ""), parameters)
