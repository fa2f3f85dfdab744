"""Free ports of this machine."""

import errno
import random
import socket

# Lower than the ports that systems give to clients and to `bind` with port 0, which start at 32768 on Linux:
# another program may take one of those before the server that it was found for binds it.
PORTS = range(20_000, 32_000)
ATTEMPTS = 100


def find_free_port(host: str = "127.0.0.1") -> int:
    """Return a port of `host` that no server listens on; raise `OSError` if the host has none."""
    # Two processes with the same seed would choose the same ports.
    for port in random.SystemRandom().sample(PORTS, ATTEMPTS):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise OSError(errno.EADDRINUSE, f"{ATTEMPTS} ports of {host} are in use")
