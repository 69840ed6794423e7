"""Where the servers of the tests are. It imports little, for each child process does so."""

import random
import socket
from contextlib import suppress

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing uses.

    It lies below the range that systems take for outgoing connections: one of those could otherwise
    occupy the port of a server that is down, or a client that keeps trying connect to itself.
    """
    choose = random.SystemRandom()  # Hypothesis seeds the shared generator
    while True:
        port = choose.randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
