"""The documentation: links lead somewhere, commands exist, Python blocks run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main

from headwater.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WITH_PYTHON = [name for name in NAMES if "```python" in (ROOT / name).read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{name} links to {target}"


def commands() -> list[tuple[str, str]]:
    found = []
    for name in NAMES:
        for block in re.findall(r"```\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL):
            found += [(name, line) for line in block.splitlines() if re.search(r"(^|\| )headwater ", line)]
    return found


@pytest.mark.parametrize(("name", "line"), commands())
def test_commands_and_options_exist(name: str, line: str) -> None:
    words = shlex.split(line[line.index("headwater ") :], comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not getattr(command, "commands", {}), f"{line}: no such command"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "docs" / "example", tmp_path / "docs" / "example")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, name, "exec"), space)
