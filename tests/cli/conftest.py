"""A random model on disk that reads long prompts, and a caller of the command line."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from headwater.cli.main import app
from models import byte_tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("random-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command line with a cache of its own; the result has .exit_code, .stdout, .stderr."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")

    def run(*arguments: object, stdin: str | None = None) -> Any:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["headwater", *words])
        return CliRunner().invoke(app, words, input=stdin)

    return run


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "algeria.txt").write_text("Algiers is the capital of Algeria. It lies on the sea.", encoding="utf-8")
    (folder / "france.md").write_text("# France\n\nParis is the capital.", encoding="utf-8")
    (folder / "photo.png").write_bytes(b"x")
    return folder
