"""Free ports."""

import random
import socket

import pytest

from relearn.model import ports


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_port_can_be_bound(host: str) -> None:
    """It is none that the system gives to clients meanwhile."""
    port = ports.find_free_port(host)
    assert port in ports.PORTS
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.bind((host, port))


def test_port_of_another_server_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of two ports taken, the other is found, even by processes with one seed; with both, none."""
    first = ports.find_free_port()
    with socket.create_server(("127.0.0.1", first)), socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        second = int(other.getsockname()[1])
        monkeypatch.setattr(ports, "PORTS", sorted([first, second]))
        monkeypatch.setattr(ports, "ATTEMPTS", 2)
        with pytest.raises(OSError, match=r"2 ports of 127\.0\.0\.1 are in use"):
            ports.find_free_port()
        other.close()
        random.seed(0)
        assert second == ports.find_free_port()


def test_host_of_another_machine_is_an_error() -> None:
    """At once, not after all attempts."""
    with pytest.raises(OSError, match="assign requested address"):
        ports.find_free_port("192.0.2.1")
