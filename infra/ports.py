"""Ports of this machine that nobody listens on."""

import socket


def free_ports(number: int) -> list[int]:
    """So many different ones."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
