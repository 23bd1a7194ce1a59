"""The house rules that a machine can check: floors, file sizes, model internals in one room, no unsafe loading."""

import ast
import re
from pathlib import Path

import pytest

import headwater as hw

SOURCE = Path(hw.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "atomic": 1,
    "data": 2,
    "model": 2,
    "headset": 2,
    "prompt": 3,
    "instrument": 3,
    "search": 4,
    "heads": 4,
    "plots": 5,
    "rank": 5,
    "read": 6,
    "pipeline": 7,
    "evaluate": 8,
    "cli": 9,
}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "headwater" and len(parts) > 1 else None


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "headwater")


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != SOURCE / "__init__.py"], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_no_import_runs_up(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert own in FLOORS, f"give the room {own!r} a floor here and in docs/concepts"
    for module in imports(path):
        other = room(module)
        if other in FLOORS and other != own:
            assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {module} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_readable_and_safe(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    assert not re.search(r"torch\.load\(|pickle|shell=True|os\.system|trust_remote_code=True", text)
    if "instrument" not in path.parts:
        assert not re.search(r"register_forward|AttentionInterface|\.self_attn\b|_attn_implementation", text)
    if "cli" not in path.parts:
        assert not re.search(r"^\s*print\(", text, re.MULTILINE)


def test_every_public_name_is_documented():
    for name in hw.__all__:
        if not name.startswith("__"):
            assert (getattr(hw, name).__doc__ or "").strip(), name
