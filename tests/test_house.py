"""The house rules that a machine can check: floors, file length, where printing is done."""

import ast
from pathlib import Path

import pytest

import headwater

SOURCE = Path(headwater.__file__).parent
FLOORS = {
    "errors": 0,
    "atomic": 1,
    "cache": 1,
    "data": 2,
    "headset": 2,
    "model": 2,
    "prompt": 3,
    "instrument": 3,
    "heads": 4,
    "search": 4,
    "rank": 5,
    "plots": 5,
    "adapt": 6,
    "read": 6,
    "pipeline": 7,
    "evaluate": 8,
    "cli": 9,
}
FILES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def room(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {parts[1] for parts in (name.split(".") for name in names) if parts[0] == "headwater" and len(parts) > 1}


@pytest.mark.parametrize("name", FILES)
def test_imports_run_down(name: str) -> None:
    own = room(name)
    assert own in FLOORS, f"{own} has no floor: add it to DESIGN and here"
    for other in imported_rooms(ast.parse((SOURCE / name).read_text(encoding="utf-8"))) - {own, "__version__"}:
        assert FLOORS[other] < FLOORS[own], f"{name} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("name", FILES)
def test_files_stay_readable(name: str) -> None:
    text = (SOURCE / name).read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert room(name) == "cli" or not prints
