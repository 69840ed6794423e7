"""What the README shows, and a new project that was made by following it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.services import ROOT, spawn

README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def the_snippet(language: str, part: str) -> str:
    (found,) = [code for code in snippets(language) if part in code]
    return found


class Project:
    """A new project, made by following the README."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {
            "PYTHONPATH": f"{ROOT}:{directory}",
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
        }
        startproject = [sys.executable, "-m", "django", "startproject", "mysite", directory]
        assert spawn(startproject, env={"PYTHONPATH": str(ROOT)}).wait() == 0
        self.append("settings", the_snippet("python", "INSTALLED_APPS ="))
        self.append("settings", '\nSTREAMBRIDGE = {"AUTHORIZER": "mysite.team.TeamAuthorizer"}\n')
        self.append("urls", the_snippet("python", "urlpatterns +="))
        self.append("asgi", the_snippet("python", "flow_control("))
        self.append("team", the_snippet("python", "TeamAuthorizer"))

    def append(self, module: str, code: str) -> None:
        with (self.directory / "mysite" / f"{module}.py").open("a") as file:
            file.write(code)

    def run(self, *arguments: str, stdin: str = "") -> str:
        process = spawn(
            [sys.executable, self.directory / "manage.py", *arguments],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = process.output(stdin)
        assert process.returncode == 0, err
        return str(out + err)
