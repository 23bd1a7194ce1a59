"""`ContrastiveTuning` on random models: it learns, loads again, leaves the base alone, goes on, refuses."""

import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

import headwater as hw
from headwater.adapt import training
from headwater.adapt.contrastive import ContrastiveTuning
from headwater.adapt.contrastive_data import Deck, to_train_and_check, training_queries
from headwater.adapt.contrastive_steps import Development, judge_name
from headwater.errors import FormatError, InputError, ModelError
from headwater.rank.qr import QRRetriever
from headwater.search.embedder import Embedder
from models import random_lm

NAMES = ["ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen"]
QUICK = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "learning_rate": 2e-2, "batch": 4, "temperature": 0.05, "every": 6}


def examples(n=16, seed=0):
    """Queries for an animal among passages about other animals; the words around it differ."""
    draw = random.Random(seed)
    out = []
    for number in range(n):
        names = draw.sample(NAMES, 4)
        texts = [f"{draw.choice('xyz') * 2} {name} {draw.choice('xyz')}" for name in names]
        documents = [hw.Document(text, id=f"{number}-{place}") for place, text in enumerate(texts)]
        out.append(hw.RankingExample(f"{names[0]}?", documents, [f"{number}-0"], id=str(number)))
    return out


TRAIN, CHECKS = examples(), examples(6, seed=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    random_lm(seed=1, layers=2).save(folder)
    return folder


@pytest.fixture
def lm(saved):
    return hw.load(saved)


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def tuned(saved, tmp_path_factory):
    lm = hw.load(saved)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    needed = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    seen = []
    folder = ContrastiveTuning(**QUICK, steps=18, instruction="Find: ").fit(
        lm, TRAIN, tmp_path_factory.mktemp("out") / "embedder", CHECKS, lambda *step: seen.append(step)
    )
    assert seen[-1] == (18, 18)
    after = lm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert needed == {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    assert not lm.model.training
    return folder


def test_it_learns_and_the_folder_is_an_embedder(tuned, saved):
    result = json.loads((tuned / "tuning.json").read_text())["result"]
    checked = [row for row in result["log"] if "eval_ndcg@10" in row]
    assert [row["step"] for row in checked] == [0, 6, 12, 18]
    best = max(row["eval_ndcg@10"] for row in checked)
    assert best > checked[0]["eval_ndcg@10"] + 0.05
    assert sorted(path.name for path in tuned.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "headwater.json",
        "tuning.json",
    ]
    found, base = Embedder(tuned), Embedder(hw.load(saved))
    assert found.instruction == "Find: "
    assert Development(found, CHECKS).measured()["ndcg@10"] == pytest.approx(best, abs=1e-6)
    assert Development(base, CHECKS).measured()["ndcg@10"] == pytest.approx(checked[0]["eval_ndcg@10"], abs=0.3)
    texts = ["ant", "bee x"]
    assert np.abs(found.embed(texts) - base.embed(texts)).max() > 1e-3
    merged = hw.load(model=hw.load(tuned).model.merge_and_unload(), tokenizer=base.lm.tokenizer)
    np.testing.assert_allclose(Embedder(merged).embed(texts), found.embed(texts), atol=1e-5)
    record = json.loads((tuned / "headwater.json").read_text())
    assert record["base"]["fingerprint"] == record["base_fingerprint"] == base.lm.fingerprint
    assert record["method"] == "ContrastiveTuning"


def test_chunks_train_the_same_weights(lm, tmp_path):
    plan = {**QUICK, "steps": 2, "dimensions": (16,), "learning_rate": 1e-3}
    whole = ContrastiveTuning(**plan).fit(lm, TRAIN, tmp_path / "whole", [])
    parts = ContrastiveTuning(**plan, chunk=3).fit(lm, TRAIN, tmp_path / "parts", [])
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-3, atol=2e-5)


class Killed(RuntimeError):
    """The power went."""


def test_an_interrupted_training_goes_on_to_the_same_weights(lm, tmp_path):
    plan = {**QUICK, "steps": 6, "every": 2, "teacher": lambda query, documents: [len(d.text) for d in documents]}
    plan |= {"distill": 0.5}
    whole = ContrastiveTuning(**plan).fit(lm, TRAIN, tmp_path / "whole", CHECKS)
    calls = []

    def counted(query, documents):
        calls.append(query)
        return plan["teacher"](query, documents)

    counted.__qualname__ = plan["teacher"].__qualname__

    def kill(done, total):
        if done == 3:
            raise Killed

    again = {**plan, "teacher": counted}
    with pytest.raises(Killed):
        ContrastiveTuning(**again).fit(lm, TRAIN, tmp_path / "torn", CHECKS, progress=kill)
    assert len(calls) == 24
    torn = ContrastiveTuning(**again).fit(lm, TRAIN, tmp_path / "torn", CHECKS)
    assert len(calls) == 24, "what the teacher said was kept"
    assert not list(torn.glob("teacher*"))
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(torn).items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
        assert ContrastiveTuning(**again).fit(lm, TRAIN, torn, CHECKS) == torn
        with pytest.raises(InputError, match="another seed"):
            ContrastiveTuning(**again, seed=5).fit(lm, TRAIN, torn, CHECKS)


def test_a_student_follows_its_teacher(lm, tmp_path):
    """The teacher prefers the last letter of the alphabet, whatever is asked."""

    def teacher(query, documents):
        return [ord(document.text[3]) / 10 for document in documents]

    def agreement(embedder):
        found = []
        for example in TRAIN:
            scores = embedder.score(example.query, example.documents)
            found.append(np.corrcoef(scores, teacher(example.query, example.documents))[0, 1])
        return float(np.mean(found))

    plan = {**QUICK, "steps": 16, "teacher": teacher, "distill": 1.0, "teacher_temperature": 0.3}
    folder = ContrastiveTuning(**plan).fit(lm, TRAIN, tmp_path / "out", [])
    assert agreement(Embedder(folder)) > agreement(Embedder(lm)) + 0.3


def test_the_model_teaches_itself(lm, tmp_path, monkeypatch):
    seen = []

    class Ranker:
        def __init__(self, model):
            seen.append(model)

        def score(self, query, documents):
            return np.linspace(1, 0, len(documents))

    monkeypatch.setattr("headwater.adapt.contrastive.QRRetriever", Ranker)
    plan = {**QUICK, "steps": 1, "teacher": "qr", "distill": 0.5}
    folder = ContrastiveTuning(**plan).fit(lm, TRAIN, tmp_path / "out", [])
    assert seen == [lm]
    assert json.loads((folder / "tuning.json").read_text())["config"]["teacher"] == "qr"


def test_an_adapter_is_trained_on(tuned, tmp_path):
    lm = hw.load(tuned)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    asked = [parameter.requires_grad for parameter in lm.model.parameters()]
    folder = ContrastiveTuning(**{**QUICK, "rank": 32}, steps=2).fit(lm, TRAIN, tmp_path / "out", [])
    after = lm.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert asked == [parameter.requires_grad for parameter in lm.model.parameters()]
    old, new = weights(tuned), weights(folder)
    assert old.keys() == new.keys(), "one adapter, not two"
    assert any(not torch.equal(tensor, new[name]) for name, tensor in old.items())
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (
        config["base_model_name_or_path"]
        == json.loads((tuned / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    assert config["r"] == 4
    prints = [json.loads((each / "headwater.json").read_text())["base_fingerprint"] for each in (tuned, folder)]
    assert prints[0] == prints[1]
    with pytest.raises(ModelError, match="merge it first"):
        ContrastiveTuning(**QUICK, trainable="full").fit(lm, TRAIN, tmp_path / "full", [])


def test_all_weights(lm, tmp_path):
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    folder = ContrastiveTuning(**{**QUICK, "learning_rate": 1e-3}, trainable="full", steps=2).fit(
        lm, TRAIN, tmp_path / "full", []
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert {"config.json", "model.safetensors", "headwater.json", "tuning.json"} <= {p.name for p in folder.iterdir()}
    again = hw.load(folder)
    moved = [not torch.equal(tensor, before[name]) for name, tensor in again.model.state_dict().items()]
    assert sum(moved) > len(moved) / 2
    assert Embedder(folder).prompt.pair == "n2s"


def test_all_weights_are_kept_as_they_were_trained(lm, tmp_path):
    """Also where the checkpoint was stored in half precision, in which small steps are rounded away."""
    stored = replace(lm, stored_dtype=torch.bfloat16)
    plan = {**QUICK, "learning_rate": 1e-5, "trainable": "full", "steps": 1}
    folder = ContrastiveTuning(**plan).fit(stored, TRAIN, tmp_path / "full", [])
    tensors = load_file(folder / "model.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_the_instruction_stays_unless_another_is_given(tuned, tmp_path):
    for given, want in ((None, "Find: "), ("", "")):
        plan = {**QUICK, "steps": 1, "instruction": given}
        folder = ContrastiveTuning(**plan).fit(hw.load(tuned), TRAIN, tmp_path / f"out {want}", [])
        assert Embedder(folder).instruction == want


def test_an_adapter_for_other_weights_is_said(tuned, tmp_path, caplog):
    shutil.copytree(tuned, tmp_path / "other")
    record = json.loads((tuned / "headwater.json").read_text())
    (tmp_path / "other" / "headwater.json").write_text(json.dumps({**record, "base_fingerprint": "0" * 16}))
    hw.load(tuned)
    assert "other weights" not in caplog.text
    hw.load(tmp_path / "other")
    assert "was trained on other weights" in caplog.text


def test_an_adapter_that_is_not_lora(lm, tmp_path):
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    other = replace(lm, model=peft.get_peft_model(lm.model, config))
    with pytest.raises(ModelError, match="not LoRA"):
        ContrastiveTuning(**QUICK, steps=1).fit(other, TRAIN, tmp_path / "out", [])


def test_teachers_have_names(lm):
    all_heads, one = QRRetriever(lm, heads="all"), QRRetriever(lm, heads=[(0, 0)])
    names = [judge_name(ranker.score) for ranker in (all_heads, one, QRRetriever(lm, heads="all"))]
    assert names[0] == names[2] != names[1]
    assert lm.fingerprint in names[0]


def test_a_document_of_two_lists_counts_once(lm):
    lists = [
        hw.RankingExample("one", [hw.Document("Same", id="a"), "x"], [0]),
        hw.RankingExample("two", ["same ", "y"], [0]),
    ]
    quality = Development(Embedder(lm), lists)
    assert len(quality.pool) == 3
    assert quality.grades.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_a_query_is_trained_on_or_held_out():
    twice = [hw.RankingExample(f"Query {n % 20}?", ["a"], [0], id=str(n)) for n in range(40)]
    kept, held = to_train_and_check(twice, None, 0)
    assert len(held) == 4
    assert {example.query for example in kept}.isdisjoint(example.query for example in held)


PROCESS = """
import sys, torch
sys.path[:0] = sys.argv[1:3]
from test_contrastive_tuning import *
lm = hw.load(sys.argv[3])
calls = []
def teacher(query, documents):
    calls.append(query)
    return [len(document.text) for document in documents]
for time in range(2):
    folder = ContrastiveTuning(**TWO, teacher=teacher).fit(lm, TRAIN, sys.argv[4], CHECKS)
    assert (folder / "adapter_model.safetensors").is_file(), "the folder is whole when a process goes on"
    assert len(calls) == int(sys.argv[5])
"""
TWO = {**QUICK, "steps": 3, "every": 3, "distill": 0.5, "learning_rate": 1e-3}


def test_two_processes_train_as_one(lm, saved, tmp_path):
    here = Path(__file__).parent
    words = [sys.executable, "-c", PROCESS, str(here), str(here.parent), str(saved), str(tmp_path / "two"), "6"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(words, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(200) for process in processes] == [0, 0]

    def teacher(query, documents):
        return [len(document.text) for document in documents]

    one = ContrastiveTuning(**TWO, teacher=teacher).fit(lm, TRAIN, tmp_path / "one", CHECKS)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, rtol=1e-3, atol=2e-5)


def test_batches(lm):
    queries, negatives = training_queries(TRAIN, None)
    assert negatives == 3
    deck = Deck(queries, 6, 2, seed=1)
    dealt = [each for number in range(8) for each in deck.batch(number)]
    assert sorted(each.index for each in dealt[:16]) == list(range(16))
    assert [each.index for each in dealt[16:32]] != [each.index for each in dealt[:16]]
    assert {each.round for each in dealt[16:32]} == {1}
    for each in dealt:
        own = queries[each.index]
        assert each.documents[0] in own.positives
        assert len({document.id for document in each.documents[1:]}) == 2
        assert set(each.documents[1:]) <= set(own.negatives)
    again = Deck(queries, 6, 2, seed=1)
    assert again.batch(5) == deck.batch(5)
    assert {each.documents for each in dealt if each.index == 3} != {dealt[0].documents}


def test_what_can_be_trained_on(caplog):
    twice = [
        hw.RankingExample("Ants?", [hw.Document("one", id="a"), hw.Document("two", id="b"), "three"], ["a"]),
        hw.RankingExample("ants? ", [hw.Document("two", id="b"), hw.Document("ONE ", id="c"), "four"], ["b"]),
        hw.RankingExample("none", ["x"], []),
        hw.RankingExample("blank", [" ", "x"], [0]),
    ]
    queries, negatives = training_queries(twice, None)
    assert "2 examples have no gold document" in caplog.text
    assert [[document.text for document in query.negatives] for query in queries] == [["three"], ["four"]]
    assert negatives == 1
    with pytest.raises(InputError, match=r"has 1 negatives, not 2: mine more"):
        training_queries(twice, 2)
    with pytest.raises(InputError, match="nothing to train on"):
        training_queries(twice[2:], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"steps": 0},
        {"chunk": 0},
        {"temperature": 0.0},
        {"learning_rate": float("nan")},
        {"dropout": 1.0},
        {"distill": 0.5},
        {"teacher": "gpt", "distill": 0.5},
        {"negatives": -1},
        {"trainable": "some"},
        {"pair": "x2s"},
        {"query_length": 0},
        {"max_length": 100},
        {"mask_margin": float("nan")},
        {"dimensions": 128},
        {"dimensions": (1.5,)},
    ],
)
def test_numbers_that_cannot_train(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ContrastiveTuning(**wrong)


def test_bad_input(lm, tmp_path, monkeypatch):
    def fit(plan=None, model=lm, train=TRAIN):
        return ContrastiveTuning(**{**QUICK, "steps": 1, **(plan or {})}).fit(model, train, tmp_path / "out", [])

    with pytest.raises(InputError, match="dimensions must lie"):
        fit({"dimensions": (65,)})
    with pytest.raises(InputError, match="leaves no room for a text"):
        fit({"query_length": 3})
    with pytest.raises(ModelError, match="float16"):
        fit(model=hw.load(lm.name, dtype="float16"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tuning.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        fit()
    (tmp_path / "out" / "tuning.json").unlink()
    with pytest.raises(InputError, match="finite score"):
        fit({"teacher": lambda query, documents: [math.nan] * len(documents), "distill": 0.5})
    with pytest.raises(InputError, match="No development example has a gold document"):
        ContrastiveTuning(**QUICK).fit(lm, TRAIN, tmp_path / "new", [hw.RankingExample("q", ["a"], [])])
    with pytest.raises(ModelError, match="vanish in half precision"):
        fit({"trainable": "full"}, hw.load(lm.name, dtype="bfloat16"))
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(InputError, match="8 processes cannot share a batch of 4"):
        fit()
