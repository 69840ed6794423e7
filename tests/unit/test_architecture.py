"""The house plan as tests: layers, cycles, exports, the error tree, and a test for every module."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from streambridge_app import exceptions

TESTS = Path(__file__).parent.parent
PACKAGE = TESTS.parent / "streambridge_app"

# Imports go down, or sideways without a cycle. `exceptions` needs to stay at the bottom.
LAYERS = {
    0: ["exceptions", "runs", "events"],
    1: [
        *[
            "alarm",
            "batch",
            "cursor",
            "sse",
            "socket_frames",
            "tail",
            "follow",
            "arguments",
            "bridge",
        ],
        *["background", "closing", "green_threads", "sync", "redaction", "unreadable"],
    ],
    2: [
        *["complaints", "event_data", "lifecycle", "commit_times", "conf", "models", "ownership"],
        *["plain_data", "refusals"],
    ],
    3: [
        *["advance", "advance_postgresql", "advance_sqlite", "dialects", "libpq", "writes"],
        *["callers", "database_creation", "signals", "transactions"],
        "failures",
        "garbage",
        "handover",
        "holes",
        "liveness",
        "log",
        "log_threads",
        "orphans",
        "patience",
        "reading",
        "recovery",
        "redis_pubsub",
        "registry",
        "repeats",
        "retention",
    ],
    4: [
        *["groups", "announce", "membership", "pages", "followed", "polling", "hub"],
        *["slots", "writer", "pipeline", "pipelined", "transactional", "leases"],
        *["backends.memory", "backends.channel_layer", "backends.in_transaction"],
        *["access", "streams", "flow_control"],
        *["streaming", "shutdown", "sweeper", "users"],
    ],
    5: [
        *["", "admin", "apps", "checks", "consumers", "converters", "routing", "tasks"],
        *["urls", "views"],
        *["backends", "management", "management.base", "management.child"],
        *["management.lines", "management.commands"],
        *[
            f"management.commands.streambridge_{name}"
            for name in ("doctor", "prune", "publish", "tail")
        ],
        *[
            "doctor",
            "doctor.addresses",
            "doctor.check",
            "doctor.client",
            "doctor.clock",
            "doctor.configuration",
            "doctor.database",
        ],
        *["doctor.examination", "doctor.findings", "doctor.layer", "doctor.partner"],
        *[
            "doctor.passwords",
            "doctor.postgresql",
            "doctor.requests",
            "doctor.round_trip",
            "doctor.server",
        ],
        *["doctor.sqlite", "doctor.times"],
    ],
    6: [
        *["contrib", "contrib.celery", "contrib.enqueue", "contrib.tasks"],
        *["testing", "testing.bridges", "testing.plugin", "testing.published"],
        "testing.sse_client",
    ],
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}
PURE = {*LAYERS[0], *LAYERS[1]}

FOR_TYPES_ONLY = {
    ("bridge", "sync"),
    ("pipelined", "backends.channel_layer"),
    ("testing.plugin", "testing.published"),
    ("testing.plugin", "testing.sse_client"),
    ("transactional", "backends.channel_layer"),
}
"""Imports under TYPE_CHECKING: annotations may look up, code may not."""

TESTED_BY = {
    "": "unit/test_architecture.py",
    "admin": "integration/test_admin.py",
    "advance": "contract/test_order.py",
    "advance_postgresql": "integration/test_advance_postgresql.py",
    "advance_sqlite": "contract/test_order.py",
    "apps": "unit/test_checks.py",
    "backends.channel_layer": "contract/test_runs.py",
    "backends.memory": "contract/test_runs.py",
    "bridge": "contract/test_subscribe.py",
    "closing": "contract/test_close.py",
    "callers": "contract/test_transactions.py",
    "contrib.celery": "acceptance/test_celery.py",
    "contrib.enqueue": "integration/test_contrib_tasks.py",
    "contrib.tasks": "integration/test_contrib_tasks.py",
    "converters": "integration/test_views.py",
    "database_creation": "acceptance/test_test_runs.py",
    "dialects": "contract/test_leases.py",
    "holes": "contract/test_holes.py",
    "doctor": "integration/test_doctor.py",
    **{
        f"doctor.{name}": "integration/test_doctor.py"
        for name in (
            "addresses",
            "client",
            "configuration",
            "database",
            "layer",
            "partner",
            "requests",
            "round_trip",
            "server",
        )
    },
    "doctor.check": "unit/test_examination.py",
    "doctor.findings": "unit/test_examination.py",
    "items": "unit/test_follow.py",
    "handover": "contract/test_release.py",
    "followed": "contract/test_subscribe.py",
    "hub": "contract/test_unreliable_layer.py",
    "liveness": "contract/test_leases.py",
    "libpq": "integration/test_libpq.py",
    "log": "contract/test_order.py",
    "log_threads": "contract/test_runs.py",
    "management.base": "integration/test_commands.py",
    "management.child": "integration/test_commands.py",
    "management.commands.streambridge_doctor": "integration/test_doctor.py",
    "management.commands.streambridge_publish": "integration/test_commands.py",
    "management.commands.streambridge_tail": "integration/test_commands.py",
    "models": "integration/test_migrations.py",
    "orphans": "contract/test_orphans.py",
    "ownership": "integration/test_own_database.py",
    "patience": "contract/test_locks.py",
    "pipeline": "contract/test_producer.py",
    "pipelined": "contract/test_producer.py",
    "polling": "contract/test_polling.py",
    "reading": "contract/test_polling.py",
    "recovery": "contract/test_lost_commits.py",
    "retention": "contract/test_retention.py",
    "routing": "integration/test_consumers.py",
    "signals": "contract/test_signals.py",
    "streams": "integration/test_views.py",
    "sweeper": "contract/test_retention.py",
    "sync": "contract/test_subscribe.py",
    "tasks": "acceptance/test_celery.py",
    "testing": "acceptance/test_testing.py",
    "testing.bridges": "acceptance/test_testing.py",
    "testing.plugin": "acceptance/test_testing.py",
    "testing.published": "integration/test_recorder.py",
    "testing.sse_client": "integration/test_sse_client.py",
    "transactions": "contract/test_transactions.py",
    "transactional": "contract/test_transactions.py",
    "unreadable": "contract/test_holes.py",
    "urls": "integration/test_views.py",
    "users": "integration/test_access.py",
    "slots": "integration/test_writer.py",
    "writer": "integration/test_writer.py",
    "writes": "contract/test_order.py",
}
"""Test files of the modules that have no `test_<module>.py` of their own."""


class Import(NamedTuple):
    module: str
    imported: str
    """A dotted name: inside the package without its name, outside whole."""
    inside: bool
    for_types: bool


def _path_to_module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _path_to_module(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.parts
}


def _imports(module: str) -> Iterator[Import]:
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):  # functions and methods included
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = [part for part in package if part]
            base = package[: len(package) - node.level + 1]
            start = ".".join([PACKAGE.name, *base, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == PACKAGE.name or name.startswith(f"{PACKAGE.name}."):
                inner = name.removeprefix(PACKAGE.name).removeprefix(".")
                while inner not in MODULES:  # a name in a module
                    inner = inner.rpartition(".")[0]
                yield Import(module, inner, True, node in for_types)
            else:
                yield Import(module, name, False, node in for_types)


IMPORTS = [found for module in MODULES for found in _imports(module)]
INSIDE = {
    (one.module, one.imported)
    for one in IMPORTS
    if one.inside and not one.for_types and one.module != one.imported
}


def test_every_module_has_a_layer():
    assert set(LAYER) == set(MODULES)


def test_imports_only_go_down_or_sideways():
    assert [pair for pair in sorted(INSIDE) if LAYER[pair[1]] > LAYER[pair[0]]] == []


def test_imports_for_type_annotations_are_the_known_ones():
    found = {(one.module, one.imported) for one in IMPORTS if one.inside and one.for_types}
    assert found == FOR_TYPES_ONLY


def test_there_is_no_cycle():
    below = {module: {to for start, to in INSIDE if start == module} for module in MODULES}
    while free := {module for module, imported in below.items() if not imported}:
        below = {
            module: imported - free for module, imported in below.items() if module not in free
        }
    assert below == {}


def test_nobody_imports_contrib_or_testing():
    importers = {start for start, to in INSIDE if LAYER[to] == 6}
    assert {start for start in importers if LAYER[start] != 6} == set()


def test_the_pure_layers_import_the_standard_library_and_each_other_only():
    foreign = {
        (one.module, one.imported)
        for one in IMPORTS
        if one.module in PURE
        and not one.for_types
        and (
            one.imported not in PURE
            if one.inside
            else one.imported.split(".")[0] not in sys.stdlib_module_names
        )
    }
    assert foreign == set()


def test_only_the_log_writes_the_tables():
    writers = set()
    for module in set(MODULES) - {"log", "orphans", "retention"}:
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {
                *("bulk_create", "bulk_update", "get_or_create", "update_or_create"),
                *("abulk_create", "acreate", "_raw_delete"),
            }:
                writers.add((module, node.attr))
    assert writers == set()


@pytest.mark.parametrize("module", MODULES)
def test_exports_are_sorted_and_exist(module):
    if not (module == "" or "__all__" in MODULES[module].read_text()):
        return
    loaded = importlib.import_module(f"{PACKAGE.name}.{module}".rstrip("."))
    constants_first = sorted(loaded.__all__, key=lambda name: (not name.isupper(), name))
    assert loaded.__all__ == constants_first
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_the_package_exports_what_it_imports():
    import streambridge_app

    tree = ast.parse(MODULES[""].read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(streambridge_app.__all__)


def test_every_module_says_why_it_exists():
    silent = [
        module
        for module, path in MODULES.items()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert [module for module in silent if module not in {"apps", "urls"}] == []


def test_every_module_has_a_test_file():
    named = {path.name for path in TESTS.rglob("test_*.py")}
    missing = {}
    for module, path in MODULES.items():
        if not path.read_text().strip():
            continue
        own = f"test_{module.rpartition('.')[2]}.py"
        if module in TESTED_BY:
            if not (TESTS / TESTED_BY[module]).exists():
                missing[module] = TESTED_BY[module]
        elif own not in named:
            missing[module] = own
    assert missing == {}
    assert set(TESTED_BY) <= set(MODULES)


def test_the_error_tree_in_the_docstring_is_the_classes():
    drawn = {}
    for line in exceptions.__doc__.splitlines():
        if "──" in line:
            name, _, rest = line.split("── ")[1].partition(" (")
            drawn[name.strip()] = rest.partition(")")[0]
    defined = {
        name: error
        for name, error in vars(exceptions).items()
        if isinstance(error, type) and issubclass(error, Exception)
    }
    root = defined.pop("StreamBridgeError")
    assert root.__bases__ == (Exception,)
    assert {
        name: tuple(base.__name__ for base in error.__bases__) for name, error in defined.items()
    } == {name: ("StreamBridgeError", kind) for name, kind in drawn.items()}


def test_the_demo_installs_some_of_what_is_tested():
    def pins(path):
        text = (TESTS.parent / path).read_text()
        return set(re.findall(r"^([a-z0-9.\[\]-]+==[^ ]+)", text, re.MULTILINE))

    demo = pins("project/requirements.txt")
    assert demo < pins("requirements.txt")
    assert not [pin for pin in demo if pin.startswith(("pytest", "mypy", "playwright", "uvicorn"))]
