"""A checksum of every file below a directory."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def of_library() -> Iterator[dict[str, Any]]:
    """Take the checksums of Python's library directory."""
    return of_files_below(Path(sysconfig.get_path("stdlib")))


def of_files_below(root: Path) -> Iterator[dict[str, Any]]:
    """Yield a step per file, in the order of the paths; installed packages are left out."""
    files = sorted(path for path in root.rglob("*") if _is_wanted(path, root))
    for n, path in enumerate(files, 1):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield {
            "n": n,
            "total": len(files),
            "path": str(path.relative_to(root)),
            "bytes": path.stat().st_size,
            "sha256": digest,
        }


def _is_wanted(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    # Bytecode comes and goes while other programs run.
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    return skipped.isdisjoint(parts) and path.is_file()
