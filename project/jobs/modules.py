"""The modules of the standard library, compiled."""

import py_compile
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tests hold files that are wrong on purpose.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests"}


def compile_all() -> Iterator[dict[str, Any]]:
    """Yield a step per module, with the time it took."""
    root = Path(sysconfig.get_path("stdlib"))
    sources = {path: path.relative_to(root) for path in sorted(root.rglob("*.py"))}
    wanted = {path: name for path, name in sources.items() if _SKIPPED.isdisjoint(name.parts)}
    with tempfile.TemporaryDirectory() as directory:
        for n, (path, name) in enumerate(wanted.items(), 1):
            target = Path(directory, name.with_suffix(".pyc"))
            started = time.perf_counter()
            py_compile.compile(str(path), cfile=str(target), doraise=True)
            yield {
                "n": n,
                "total": len(wanted),
                "module": ".".join(name.with_suffix("").parts),
                "bytes": target.stat().st_size,
                "ms": round((time.perf_counter() - started) * 1000, 1),
            }
