"""Who asks, where reverse proxies stand in front of the operations listener.

Behind one everybody comes from its address, so that one person's wrong tokens would bar them all.
A proxy appends to ``X-Forwarded-For`` who spoke to it; what stands before that may be anybody's
invention. So the header is read from its end, for as long as who wrote it is trusted.
"""

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

Network = IPv4Network | IPv6Network

FORWARDED_FOR: Final = "X-Forwarded-For"


def behind(proxies: Sequence[Network]) -> Middleware:
    """Lets ``request.remote`` say who asks; without proxies to be trusted, who is connected."""

    @web.middleware
    async def see_through(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = request.remote or ""
        source = source_of(peer, request.headers.getall(FORWARDED_FOR, ()), proxies)
        return await handler(request if source == peer else request.clone(remote=source))

    return see_through


def source_of(peer: str, forwarded: Iterable[str], proxies: Sequence[Network]) -> str:
    """The address that a request comes from.

    Args:
        peer: the address that is connected to us.
        forwarded: what the request has in ``X-Forwarded-For``, each header's text.
        proxies: whose word is taken for who spoke to them.

    Returns:
        The first one from our side that is no proxy of ours; a proxy, when what it says is no
        address.
    """
    hops = [hop for text in forwarded for hop in text.split(",")]
    source = peer
    while hops and _is_one_of(source, proxies):
        before = _address(hops.pop())
        if before is None:
            break
        source = str(before)
    return source


def _is_one_of(source: str, proxies: Sequence[Network]) -> bool:
    address = _address(source)
    return address is not None and any(address in network for network in proxies)


def _address(hop: str) -> IPv4Address | IPv6Address | None:
    """Of ``192.0.2.1``, ``192.0.2.1:4711``, ``2001:db8::1``, ``[2001:db8::1]:4711``."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # How a listener for both kinds sees the older one.
    return getattr(address, "ipv4_mapped", None) or address
