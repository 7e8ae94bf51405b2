"""The one table of providers that are open for calls, by their word in the URL."""

from gateway.providers import Door
from gateway.providers.asterisk import AsteriskDoor
from gateway.providers.softphone import SoftphoneDoor
from gateway.providers.twilio import TwilioDoor


def doors(
    *,
    public_url: str,
    twilio_auth_tokens: tuple[str, ...] = (),
    twilio_api_url: str = "https://api.twilio.com",
    asterisk_username: str = "",
    asterisk_password: str = "",
    has_softphone: bool = False,
    insecure: bool = False,
) -> dict[str, Door]:
    """The door of every provider that has a secret; of all public ones when ``insecure``.

    Args:
        public_url: base URL under which providers reach us.
        twilio_auth_tokens: secrets that may have signed, the account's auth token first.
        twilio_api_url: base URL of Twilio's REST interface.
        asterisk_username: user name of the HTTP Basic credentials.
        asterisk_password: password of the HTTP Basic credentials.
        has_softphone: people who are logged in may call from a page.
        insecure: check no secrets (loopback and tests).
    """
    table: dict[str, Door] = {}
    if twilio_auth_tokens or insecure:
        table[TwilioDoor.name] = TwilioDoor(
            public_url, twilio_auth_tokens, insecure=insecure, api_url=twilio_api_url
        )
    if asterisk_password or insecure:
        table[AsteriskDoor.name] = AsteriskDoor(
            asterisk_username, asterisk_password, insecure=insecure
        )
    if has_softphone:
        table[SoftphoneDoor.name] = SoftphoneDoor()
    return table
