"""Who asks, behind proxies: what a trusted one says counts, and nothing that others wrote."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.proxies import source_of

PROXIES = tuple(map(ip_network, ("127.0.0.1", "10.1.0.0/16", "fd00::/8")))
CALLER, SPOOFED = "203.0.113.7", "198.51.100.1"
_ADDRESSES = st.ip_addresses().map(str)
# Each in one spelling: 192.0.2.1 as ::ffff:192.0.2.1 is among the examples.
_STRANGERS = (
    st.ip_addresses()
    .filter(lambda address: not any(address in network for network in PROXIES))
    .filter(lambda address: getattr(address, "ipv4_mapped", None) is None)
    .map(str)
)


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        (CALLER, [], CALLER),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [CALLER], CALLER),
        ("127.0.0.1", [f"{CALLER}, 10.1.2.3"], CALLER),
        ("127.0.0.1", [CALLER, "10.1.2.3"], CALLER),
        ("::ffff:127.0.0.1", [CALLER], CALLER),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("127.0.0.1", [f"{CALLER}:4711"], CALLER),
        ("127.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("127.0.0.1", ["[2001:DB8:0::7]"], "2001:db8::7"),
        ("127.0.0.1", [f"::ffff:{CALLER}"], CALLER),
    ],
)
def test_who_is_behind_a_proxy(peer: str, forwarded: list[str], source: str) -> None:
    """One proxy or several, one header or several, with ports, in either kind of address."""
    assert source_of(peer, forwarded, PROXIES) == source


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        # Not from a proxy: whatever it says.
        (CALLER, [SPOOFED], CALLER),
        (CALLER, [f"{SPOOFED}, 127.0.0.1"], CALLER),
        ("10.2.0.1", [SPOOFED], "10.2.0.1"),
        # The proxy has appended who it was.
        ("127.0.0.1", [f"{SPOOFED}, {CALLER}"], CALLER),
        ("127.0.0.1", [SPOOFED, CALLER], CALLER),
        ("127.0.0.1", [f"10.1.0.1, 127.0.0.1, {CALLER}"], CALLER),
        ("127.0.0.1", [f"{SPOOFED}, {CALLER}, 10.1.2.3"], CALLER),
        # A proxy that does not know, and nonsense behind one.
        ("127.0.0.1", [f"{SPOOFED}, unknown"], "127.0.0.1"),
        ("127.0.0.1", [f"{SPOOFED}, "], "127.0.0.1"),
        ("127.0.0.1", [f"{SPOOFED}, _hidden, 10.1.2.3"], "10.1.2.3"),
        ("", [SPOOFED], ""),
    ],
)
def test_what_others_write_does_not_count(peer: str, forwarded: list[str], source: str) -> None:
    """A spoofed header changes nothing."""
    assert source_of(peer, forwarded, PROXIES) == source


@given(_STRANGERS, st.lists(st.one_of(_ADDRESSES, st.text(max_size=30)), max_size=5))
def test_whoever_asks_cannot_say_to_be_another(stranger: str, invented: list[str]) -> None:
    """Directly or through a proxy that appends, whatever was in the header before."""
    header = ", ".join(invented)

    assert source_of(stranger, [header], PROXIES) == stranger
    assert source_of("127.0.0.1", [f"{header}, {stranger}"], PROXIES) == stranger
    assert source_of("10.1.0.9", [header, f"{stranger}, 127.0.0.1"], PROXIES) == stranger


@given(_ADDRESSES, st.lists(st.text(max_size=30), max_size=5))
def test_nobody_is_trusted_where_nobody_is_named(peer: str, forwarded: list[str]) -> None:
    """The header is as if it were not there."""
    assert source_of(peer, forwarded, ()) == peer
