"""The house plan as tests: layers, cycles, exports, the error tree, and a test for every module."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from streambridge_app import exceptions
from streambridge_app.contract.closing import HOLDERS

TESTS = Path(__file__).parent.parent
PACKAGE = TESTS.parent / "streambridge_app"

LAYERS = """
exceptions conf ← runtime ← contract ← ownership ← models ← registry ← access ← asgi ← log
← signals ← publish wake ← follow ← backends ← serve ← routing tasks urls ← checks
← admin contrib doctor testing ← apps management
"""
"""The rooms, and the modules of the root, from what all may import to what nobody does."""

PLACE = {place: number for number, layer in enumerate(LAYERS.split("←")) for place in layer.split()}
FACES = {
    "asgi",
    "checks",
    "contract",
    "doctor",
    "follow",
    "log",
    "publish",
    "runtime",
    "serve",
    "wake",
}
"""Rooms into which nobody reaches: what leaves one stands in the `__all__` of its `__init__.py`."""

WITH_LIBRARIES = {
    *("contract.payload", "contract.plain_data"),
    *("runtime.database_creation", "runtime.transactions"),
}
"""Modules of the two lowest rooms that may import more than the standard library."""

TESTED_BY = {
    "": "unit/test_architecture.py",
    "admin": "integration/test_admin.py",
    "apps": "unit/test_checks.py",
    "asgi.wrapper": "integration/test_flow_control.py",
    "backends.channel_layer": "contract/test_runs.py",
    "backends.memory": "contract/test_runs.py",
    "backends.transactional": "contract/test_transactions.py",
    "contract.bridge": "contract/test_subscribe.py",
    "contract.closing": "contract/test_close.py",
    "contract.items": "unit/test_subscription.py",
    "contract.sync": "contract/test_subscribe.py",
    "contract.unreadable": "contract/test_holes.py",
    "contrib.celery": "acceptance/test_celery.py",
    "contrib.enqueue": "integration/test_contrib_tasks.py",
    "contrib.tasks": "integration/test_contrib_tasks.py",
    "doctor.check": "unit/test_examination.py",
    "doctor.findings": "unit/test_examination.py",
    "follow.hub": "contract/test_unreliable_layer.py",
    "follow.poller": "contract/test_polling.py",
    "log.append": "contract/test_order.py",
    "log.creation": "contract/test_runs.py",
    "log.state": "contract/test_runs.py",
    "log.connections": "contract/test_locks.py",
    "log.exactly_once": "contract/test_lost_commits.py",
    "log.guard": "contract/test_lost_commits.py",
    "log.handover": "contract/test_release.py",
    "log.insert": "contract/test_order.py",
    "log.patience": "contract/test_locks.py",
    "log.read": "contract/test_polling.py",
    "log.sql.postgresql": "integration/test_advance_postgresql.py",
    "log.sql.sqlite": "unit/test_advance_sqlite.py",
    "log.sql.vendor": "contract/test_leases.py",
    "log.sweeper": "contract/test_retention.py",
    "log.threads": "contract/test_runs.py",
    "log.watch": "contract/test_leases.py",
    "log.writes": "contract/test_order.py",
    "management.base": "integration/test_commands.py",
    "management.child": "integration/test_commands.py",
    "management.commands.streambridge_doctor": "integration/test_doctor.py",
    "management.commands.streambridge_publish": "integration/test_commands.py",
    "management.commands.streambridge_tail": "integration/test_commands.py",
    "models": "integration/test_migrations.py",
    "ownership": "integration/test_own_database.py",
    "publish.callers": "contract/test_transactions.py",
    "publish.handle": "contract/test_producer.py",
    "publish.pipeline": "contract/test_producer.py",
    "publish.queue": "integration/test_writer.py",
    "routing": "integration/test_consumers.py",
    "serve.converters": "integration/test_views.py",
    "asgi.daphne": "integration/test_flow_control.py",
    "asgi.open_streams": "integration/test_views.py",
    "serve.users": "integration/test_access.py",
    "tasks": "acceptance/test_celery.py",
    "testing.bridges": "acceptance/test_testing.py",
    "testing.plugin": "acceptance/test_testing.py",
    "testing.published": "integration/test_recorder.py",
    "urls": "integration/test_views.py",
    "runtime.transactions": "contract/test_transactions.py",
    "wake.layer": "contract/test_layer_outages.py",
    "wake.news": "unit/test_announcer.py",
}
"""Test files of the modules that have no `test_<module>.py` of their own, nor one of their room."""


class Import(NamedTuple):
    module: str
    imported: str
    """A dotted name: inside the package without its name, outside whole."""
    inside: bool
    source: str = ""
    """Inside the package: the module or room that is imported from."""
    name: str = ""


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
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text())):  # functions and TYPE_CHECKING included
        if isinstance(node, ast.Import):
            sources = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            start = ".".join([PACKAGE.name, *base, *([node.module] if node.module else [])])
            sources = [(start, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            sources = [(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        for source, name in sources:
            whole = f"{source}.{name}".rstrip(".")
            if whole == PACKAGE.name or whole.startswith(f"{PACKAGE.name}."):
                inner = whole.removeprefix(PACKAGE.name).removeprefix(".")
                while inner not in MODULES:  # a name in a module
                    inner = inner.rpartition(".")[0]
                source = source.removeprefix(PACKAGE.name).removeprefix(".")
                yield Import(module, inner, True, source, name)
            else:
                yield Import(module, whole, False)


IMPORTS = [found for module in MODULES for found in _imports(module)]
INSIDE = {
    (one.module, one.imported) for one in IMPORTS if one.inside and one.module != one.imported
}


def _place(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_a_place():
    places = {_place(module) for module in MODULES}
    assert places == {*PLACE, ""}
    assert [place for place in sorted(FACES) if place not in MODULES] == []


def test_imports_only_go_down():
    above = PLACE | {"": PLACE["registry"]}
    assert [
        (start, to)
        for start, to in sorted(INSIDE)
        if _place(start) != _place(to) and above[_place(to)] >= above[_place(start)]
        if (start, to) != ("", "registry")
    ] == []


def test_nothing_is_imported_past_a_face():
    faces = {room: set(importlib.import_module(f"{PACKAGE.name}.{room}").__all__) for room in FACES}
    past = [
        (one.module, one.source, one.name)
        for one in IMPORTS
        if one.inside
        and _place(one.imported) in FACES
        and _place(one.module) != _place(one.imported)
        and not (one.source in FACES and one.name in faces[one.source])
        and one.imported not in FACES  # the room as a whole
    ]
    assert past == []


def test_a_face_shows_only_what_others_use():
    used = {(one.source, one.name) for one in IMPORTS if _place(one.module) != one.source}
    used |= {(room, name) for room in FACES for name in _used_through(room)}
    used |= {("asgi", "flow_control"), ("serve", "event_stream_response")}  # by projects
    unused = [
        (room, name)
        for room in sorted(FACES)
        for name in importlib.import_module(f"{PACKAGE.name}.{room}").__all__
        if (room, name) not in used
    ]
    assert unused == []


def _used_through(room: str) -> set[str]:
    """Return the names that modules use as `room.name`."""
    return {
        node.attr
        for one in IMPORTS
        if one.inside and one.source == "" and one.name == room
        for node in ast.walk(ast.parse(MODULES[one.module].read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == room
    }


def test_some_modules_may_be_imported_before_django_is_set_up():
    """In a project's asgi.py, tasks, settings, and in pytest's plugins."""
    names = ["", "access", "asgi", "conf", "contrib.celery", "exceptions", "testing.plugin"]
    code = "\n".join(f"import {PACKAGE.name}.{name}".rstrip(".") for name in names)
    env = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=PACKAGE.parent, check=True)


def test_there_is_no_cycle():
    below = {module: {to for start, to in INSIDE if start == module} for module in MODULES}
    while free := {module for module, imported in below.items() if not imported}:
        below = {
            module: imported - free for module, imported in below.items() if module not in free
        }
    assert below == {}


def test_the_lowest_rooms_import_the_standard_library_and_each_other_only():
    low = {
        module
        for module in MODULES
        if _place(module) in {"exceptions", "runtime", "contract"} and module not in WITH_LIBRARIES
    }
    foreign = {
        (one.module, one.imported)
        for one in IMPORTS
        if one.module in low
        and not one.inside
        and one.imported.split(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()


def test_only_the_log_writes_the_tables():
    writers = set()
    for module in {module for module in MODULES if _place(module) != "log"}:
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {
                *("bulk_create", "bulk_update", "get_or_create", "update_or_create"),
                *("abulk_create", "acreate", "_raw_delete"),
            }:
                writers.add((module, node.attr))
    assert writers == set()


def test_modules_that_closing_waits_for_exist():
    assert HOLDERS - {f"{PACKAGE.name}.{module}" for module in MODULES} == set()


def test_the_page_of_the_design_has_the_same_layers():
    page = (TESTS.parent / "docs/design.md").read_text()
    assert " ".join(LAYERS.split()) in " ".join(page.split())


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
        if not path.read_text().strip() or module in FACES or module == "log.sql":
            continue
        own = {f"test_{part}.py" for part in module.split(".")}
        if module in TESTED_BY:
            if not (TESTS / TESTED_BY[module]).exists():
                missing[module] = TESTED_BY[module]
        elif own.isdisjoint(named):
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
