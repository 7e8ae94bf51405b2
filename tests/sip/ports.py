"""Ports nobody uses, for servers that want to be told theirs."""

import socket


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[int]:
    """Find ports of 127.0.0.1 that are free now and differ from each other."""
    probes = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_udp_ports(count: int) -> list[int]:
    """The same for SIP and RTP."""
    return free_ports(count, socket.SOCK_DGRAM)
