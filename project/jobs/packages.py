"""The installed packages, compared with what was installed."""

import base64
import hashlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any


def check() -> Iterator[dict[str, Any]]:
    """Yield a step per distribution: version, size on disk, and files changed or missing."""
    distributions = sorted(metadata.distributions(), key=lambda found: found.name.lower())
    for n, distribution in enumerate(distributions, 1):
        sizes = []
        damaged = 0
        for file in distribution.files or ():
            try:
                content = file.read_binary()
            except OSError:
                damaged += 1
                continue
            sizes.append(len(content))
            if file.hash and file.hash.value != _digest(file.hash.mode, content):
                damaged += 1
        yield {
            "n": n,
            "total": len(distributions),
            "package": distribution.name,
            "version": distribution.version,
            "files": len(sizes),
            "bytes": sum(sizes),
            "damaged": damaged,
        }


def _digest(algorithm: str, content: bytes) -> str:
    # The form of a wheel's RECORD file.
    digest = hashlib.new(algorithm, content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
