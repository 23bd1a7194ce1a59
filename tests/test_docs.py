"""The documentation: links lead somewhere, commands exist, Python blocks run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from headwater.cli.main import app
from models import byte_tokenizer

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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of the shape of Llama-3.1-8B."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 4, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=258, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def own_files(folder: Path) -> None:
    """The files that the pages speak of."""
    for name in ("notes", "minutes"):
        (folder / name).mkdir()
        text = f"The capital of Peru is Lima. The {name} of the annual budget."
        (folder / name / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "Lima is in Peru."}\n{"_id": "d2", "text": "x y"}')
    (folder / "queries.tsv").write_text("q1\tWhere is Lima?\n")
    (folder / "bm25.trec").write_text("q1 Q0 d1 1 2.0 bm25\nq1 Q0 d2 2 1.0 bm25\n")
    example = '{"query": "Who %d?", "documents": ["Ann did.", "It rained."], "relevant": [0]}\n'
    (folder / "mine.jsonl").write_text("".join(example % i for i in range(4)))
    (folder / "full_attention_heads.tsv").write_text("0.1\t0.9\n" * 4)


@pytest.mark.parametrize("name", ["README.md", "docs/how-to.md"])
def test_commands_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: str) -> None:
    """Every command of a page, in its order, with small models in place of those it names."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    own_files(tmp_path)
    for page, line in commands():
        words = shlex.split(line[line.index("headwater ") :], comments=True)[1:]
        if page != name or words[0] == "eval":  # minutes; tests/cli/test_jobs.py runs it smaller
            continue
        for place in [i for i, word in enumerate(words) if word in ("--model", "--ranker-model")]:
            words[place + 1] = large if "Llama-3.1-8B" in words[place + 1] else "tiny"
        stdin = "Lima is the capital.\nIt rained.\n" if "|" in line else None
        result = CliRunner().invoke(app, words, input=stdin)
        assert result.exit_code == 0, f"{line}\n{result.stderr}"


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "docs" / "example", tmp_path / "docs" / "example")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, name, "exec"), space)
