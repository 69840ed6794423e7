"""mypy and pyright pass on a strict project made from the README, and see wrong calls."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.acceptance.readme import Project, snippets
from tests.services import ROOT, spawn

CALLS = Path(__file__).with_name("typed_calls.py")

Reports = Mapping[str, Mapping[int, list[str]]]
"""What was said of each line of each file."""

MYPY = f"""
[mypy]
strict = True
plugins = mypy_django_plugin.main
mypy_path = {ROOT}
[mypy-streambridge_app.*]
follow_imports = silent
[mypy.plugins.django-stubs]
django_settings_module = mysite.settings
"""
"""As if StreamBridge were installed: nothing is reported of its own files."""

PYRIGHT = {"typeCheckingMode": "standard", "include": ["mysite"], "extraPaths": [str(ROOT)]}
"""basedpyright carries its program in the package; in this mode it has pyright's own rules."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("typed"))
    mysite = project.directory / "mysite"
    settings = (mysite / "settings.py").read_text()
    # Django's own line; mypy wants its type.
    (mysite / "settings.py").write_text(settings.replace("HOSTS = []", "HOSTS: list[str] = []"))
    placed = "".join(path.read_text() for path in mysite.glob("*.py"))
    for number, code in enumerate(snippets("python")):
        if code not in placed:
            project.append(f"snippet_{number}", code)
    project.append("typed_calls", CALLS.read_text())
    (project.directory / "mypy.ini").write_text(MYPY)
    (project.directory / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return project


def _mypy(project: Project) -> Reports:
    reports: Reports = defaultdict(lambda: defaultdict(list))
    for line in _output(project, "mypy", "--no-error-summary", "mysite").splitlines():
        found = re.fullmatch(r"mysite/(\w+\.py):(\d+): (error: .*|note: .*)", line)
        assert found, line
        if found[3].startswith("error"):
            reports[found[1]][int(found[2])].append(found[3])
    return reports


def _pyright(project: Project) -> Reports:
    reports: Reports = defaultdict(lambda: defaultdict(list))
    options = ["--outputjson", "--pythonpath", sys.executable]
    report = json.loads(_output(project, "basedpyright", *options))
    assert report["summary"]["filesAnalyzed"] >= len(list(project.directory.glob("mysite/*.py")))
    for found in report["generalDiagnostics"]:
        if found.get("rule") != "reportMissingModuleSource":  # Django 5.2 has no django.tasks
            line = found["range"]["start"]["line"] + 1
            reports[Path(found["file"]).name][line].append(found["message"])
    return reports


def _output(project: Project, program: str, *arguments: str) -> str:
    checker = spawn(
        [sys.executable, "-m", program, *arguments],
        env=project.env,
        cwd=project.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = checker.output(timeout=300)
    assert checker.returncode == 1, out + err  # of the calls, some are refused
    return str(out)


@pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])
def test_the_readme_passes_and_wrong_calls_do_not(
    project: Project, check: Callable[[Project], Reports]
) -> None:
    reports = {name: dict(lines) for name, lines in check(project).items()}
    refused = reports.pop("typed_calls.py")
    assert reports == {}
    marked = {
        number
        for number, line in enumerate(CALLS.read_text().splitlines(), 1)
        if line.endswith("# refused")
    }
    assert {number: refused[number] for number in set(refused) - marked} == {}
    assert marked - set(refused) == set()
