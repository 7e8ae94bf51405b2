"""Ports nobody uses, for servers that want to be told theirs."""

import random
import socket

# Below the range the kernel deals out, so that no other test is given one in the meantime.
_RANGE = range(12_000, 30_000, 4)


def free_ports(count: int) -> list[int]:
    """Find ports of 127.0.0.1 that are free now, with TCP and UDP, and so is the one above each.

    A SIP phone listens for TLS one port higher.
    """
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if _is_free(port) and _is_free(port + 1):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports on 127.0.0.1")


def _is_free(port: int) -> bool:
    return all(_can_bind(port, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))


def _can_bind(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
