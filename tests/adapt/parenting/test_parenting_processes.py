"""Two processes that train together are one process (parenting.md 11, 5)."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headwater import errors

TESTS = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
import headwater as hw
from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting import method
from headwater.adapt.parenting.artefact import read_record
from models import random_lm
from parenting_items import made_map, made_sets, short_prompts

lm = random_lm(layers=1, seed=int({seeds!r}.split()[int(__import__("os").environ.get("RANK", "0"))]))
lm.name = "made"
given = short_prompts(8)
method.Parenting._prompts = lambda self, writer, data: {{name: given[name] for name in self._sets}}
looks = iter([0.3, 0.6, 0.4, 0.2])
guard = lambda lm: {{"R_Ad": next(looks), "R_Ro": 0.5, "closed_book": 0.9}}
tuning = hw.Parenting(
    units=made_map(lm, rank=3), steps=6, batch=3, micro_batch=2, rank=3, learning_rate=1e-2, every=2, template="base"
)
print(read_record(tuning.fit(lm, {{"train": made_sets(4)}}, {output!r}, guard))["result"]["best"])
"""


def start(output: Path, size: int, seeds: str = "0 0") -> list[subprocess.Popen]:
    """Train in so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = SCRIPT.format(tests=str(TESTS), output=str(output), seeds=seeds)
    common = {
        **os.environ,
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each."""
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")


def test_two_processes_are_one(tmp_path):
    """Three examples of every loss over two processes, targets of unequal length, a step in the middle kept."""
    for name, size in (("two", 2), ("one", 1)):
        for code, said, error in finish(start(tmp_path / name, size)):
            assert code == 0, error
            assert said == "2\n", "every process finds the record when it is done"
    one, two = (json.loads((tmp_path / name / "parenting.json").read_text()) for name in ("one", "two"))
    assert one["result"]["best"] == two["result"]["best"] == 2
    assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
    assert one["provenance"]["fingerprint"] == two["provenance"]["fingerprint"]
    assert [r["step"] for r in one["result"]["log"]] == [2, 4, 6]
    for record, other in zip(one["result"]["log"], two["result"]["log"], strict=True):
        assert record == pytest.approx(other, rel=1e-5)
    for folder in ("", "last"):
        alone, together = (load_file(tmp_path / name / folder / "adapter_model.safetensors") for name in ("one", "two"))
        assert alone.keys() == together.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-5)


def test_processes_of_different_models_are_refused(tmp_path):
    for code, _, error in finish(start(tmp_path / "two", 2, "0 1")):
        assert code != 0
        assert "InputError: The processes of this training differ in fingerprint" in error
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    "error",
    [
        errors.InputError("plain"),
        errors.ContextOverflowError("long", tokens=9, limit=5),
        errors.NoAcceptedRunsError("none", reasons={"a": 1}, responses=["b"]),
        errors.UnreliableUnitsError("apart", reliability={"a": 0.1}),
        errors.NonFiniteAttentionError("nan", layer=1, head=2),
        errors.InsufficientMemoryError("memory"),
        errors.MissingExtraError("extra"),
    ],
)
def test_errors_travel_between_processes(error):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
