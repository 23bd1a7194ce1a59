"""`Embedder`, exact search and shards: beside one text at a time, in any order, torn and gone on."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

import headwater as hw
from families import family_model
from headwater.errors import FormatError, HeadwaterError, InputError, InsufficientMemoryError, ModelError
from headwater.instrument.pooled import pooled_states
from headwater.prompt.suffix import embedding_prompt
from headwater.search import embedder as module
from headwater.search.embedder import Embedder
from headwater.search.exact import Dense, nearest
from headwater.search.shards import read_vectors, write_vectors
from models import byte_tokenizer, random_lm

TEXTS = [
    "a",
    "Lima is the capital of Peru. " * 9,
    "東京は日本の首都です",
    "first line\nsecond line",
    "<eos> and </s> are text",
]
DOCUMENTS = [hw.Document(text, id=f"d{place}", title="T" if place % 2 else None) for place, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def lm():
    return random_lm(seed=3, layers=2)


@pytest.fixture(scope="module")
def embedder(lm):
    return Embedder(lm)


def alone(lm, ids, places):
    """Without padding, without batches, through the whole model."""
    with torch.no_grad():
        states = lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    vector = states[list(places)].float().mean(0)
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral", "gpt2", "opt", "gpt_neox", "bloom", "lfm2"])
@pytest.mark.parametrize("pair", ["n2s", "m2m"])
def test_a_batch_is_its_texts_alone(family, pair):
    lm = hw.load(model=family_model(family), tokenizer=byte_tokenizer())
    prompt = embedding_prompt(lm.tokenizer, pair=pair)
    embedder = Embedder(lm, prompt=prompt, tokens_per_batch=600)
    for kind in ("query", "document"):
        rows = embedder.rows(TEXTS, kind)
        want = np.array([alone(lm, row, prompt.pooled(len(row), kind)) for row in rows])
        found = embedder.embed(TEXTS, kind)
        assert found.dtype == np.float32
        assert (found * want).sum(1) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_neither_order_nor_batches_matter(embedder, lm):
    found = embedder.embed(TEXTS)
    order = [3, 0, 4, 2, 1]
    again = Embedder(lm, tokens_per_batch=1).embed([TEXTS[i] for i in order])
    assert (again * found[order]).sum(1) == pytest.approx(1.0, abs=1e-5)


def test_queries_and_documents_are_asked_in_other_words(embedder):
    query, document = embedder.embed(TEXTS[:1], "query"), embedder.embed(TEXTS[:1])
    assert (query * document).sum() < 0.999
    titled = hw.Document("text", title="title")
    np.testing.assert_array_equal(embedder.embed([titled]), embedder.embed(["title\ntext"]))


def test_instruction_dimension_and_fingerprint(lm, embedder):
    told = Embedder(lm, instruction="Find this: ")
    np.testing.assert_array_equal(told.embed(["a"], "query"), embedder.embed(["Find this: a"], "query"))
    np.testing.assert_array_equal(told.embed(["a"]), embedder.embed(["a"]))
    short = Embedder(lm, dimension=8)
    whole = embedder.embed(TEXTS)[:, :8]
    np.testing.assert_allclose(short.embed(TEXTS), whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    other = Embedder(lm, prompt=embedding_prompt(lm.tokenizer, pair="s2s"))
    prints = [each.fingerprint for each in (embedder, told, short, other)]
    assert len(set(prints)) == 4
    assert Embedder(lm).fingerprint == prints[0]
    assert (embedder.dimension, short.dimension) == (64, 8)


def test_long_texts_keep_their_tail(lm):
    embedder = Embedder(lm, prompt=embedding_prompt(lm.tokenizer, max_length=40))
    rows = embedder.rows(["x" * 500, "x"])
    assert len(rows[0]) == 40
    assert rows[0][-5:] == rows[1][-5:]
    huge = Embedder(lm, prompt=embedding_prompt(lm.tokenizer, max_length=4096))
    assert huge.prompt.max_length == lm.max_length == 512
    assert huge.embed(["x" * 5000]).shape == (1, 64)


def test_half_precision_comes_close(embedder):
    half = Embedder(random_lm(seed=3, layers=2, dtype=torch.bfloat16))
    found = half.embed(TEXTS)
    assert found.dtype == np.float32
    assert (found * embedder.embed(TEXTS)).sum(1).min() > 0.98


def test_a_smaller_batch_where_memory_runs_out(lm, monkeypatch):
    want, sizes = Embedder(lm).embed(TEXTS), []

    def full(own, rows, places, width=0):
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError
        return pooled_states(own, rows, places, width)

    monkeypatch.setattr(module, "pooled_states", full)
    np.testing.assert_allclose(Embedder(lm).embed(TEXTS), want, atol=1e-5)
    assert sizes[0] == 5
    monkeypatch.setattr(module, "pooled_states", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(InsufficientMemoryError, match="does not fit the memory"):
        Embedder(lm).embed(TEXTS)
    monkeypatch.setattr(module, "pooled_states", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        Embedder(lm).embed(TEXTS)


def test_bad_input(lm, embedder, monkeypatch, tmp_path):
    for call, error, message in (
        (lambda: embedder.embed(["a"], "passage"), InputError, "Unknown kind"),
        (lambda: embedder.embed("a"), InputError, "wrap it in a list"),
        (lambda: embedder.embed(["a", " "]), InputError, "Text 1 is blank"),
        (lambda: embedder.score(" ", ["a"]), InputError, "blank"),
        (lambda: Embedder(lm, dimension=65), InputError, "between 1 and 64"),
        (lambda: Embedder(lm, tokens_per_batch=0), InputError, "at least 1"),
        (lambda: embedder.encode([[5, 6, 7]], "query"), ModelError, "does not end with its slots"),
        (lambda: pooled_states(lm, [[]], [range(0)]), InputError, "no token"),
        (lambda: Embedder(tmp_path / "none"), ModelError, "Could not load"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert embedder.embed([]).shape == (0, 64)
    monkeypatch.setattr(module, "TINY", tmp_path)
    with pytest.raises(ModelError, match="no embedder in this installation"):
        Embedder("tiny")
    broken = random_lm(layers=1)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        Embedder(broken).embed(["a"])


def test_a_damaged_record(lm, tmp_path):
    lm.save(tmp_path)
    for text in ("{", "[]", '{"prompt": {}}', '{"prompt": null}'):
        (tmp_path / "headwater.json").write_text(text)
        with pytest.raises(FormatError):
            Embedder(tmp_path)
    record = Embedder(lm, instruction="Find: ", prompt=embedding_prompt(lm.tokenizer, pair="s2s")).record()
    (tmp_path / "headwater.json").write_text(json.dumps(record))
    again = Embedder(tmp_path)
    assert (again.instruction, again.prompt.pair, again.name) == ("Find: ", "s2s", str(tmp_path))
    assert Embedder(hw.load(tmp_path)).instruction == "Find: "


def test_exact_search(embedder):
    queries, vectors = np.random.default_rng(0).standard_normal((2, 40, 6)).astype(np.float32)
    vectors[[7, 30]] = vectors[3]
    places, scores = nearest(queries, vectors.astype(np.float16), 5, block=7)
    whole = queries @ vectors.astype(np.float16).astype(np.float32).T
    want = np.argsort(-whole, 1, kind="stable")[:, :5]
    np.testing.assert_array_equal(places, want)
    np.testing.assert_allclose(scores, np.take_along_axis(whole, want, 1), rtol=1e-5)
    assert nearest(queries, vectors, 99)[0].shape == (40, 40)
    with pytest.raises(InputError, match="at least 1"):
        nearest(queries, vectors, 0)
    dense = Dense([hw.Document(" "), *DOCUMENTS], embedder)
    hits = dense.search(TEXTS[1], k=3)
    scores = embedder.score(TEXTS[1], DOCUMENTS)
    assert [hit.index - 1 for hit in hits] == np.argsort(-scores).tolist()[:3]
    assert hits[0].score == pytest.approx(scores.max(), abs=1e-5)
    assert embedder.score("a", [" ", "b"])[0] == -np.inf
    for call, message in (
        (lambda: Dense([" "], embedder), "no documents"),
        (lambda: Dense(DOCUMENTS, embedder, np.zeros((2, 64), np.float32)), "shape"),
    ):
        with pytest.raises(InputError, match=message):
            call()


class Killed(RuntimeError):
    """The power went."""


def test_shards_go_on_where_they_stopped(embedder, tmp_path, monkeypatch):
    documents = [*DOCUMENTS, hw.Document("  ", id="blank")]
    whole = write_vectors(embedder, documents, tmp_path / "whole", shard_rows=2)
    assert [len(shard) for shard in whole.shards] == [2, 2, 1]
    assert whole.shards[0].dtype == np.float16
    assert whole.ids == [document.id for document in DOCUMENTS]
    np.testing.assert_allclose(whole.array(), embedder.embed(DOCUMENTS), atol=1e-3)
    seen = []

    def kill(done, total):
        seen.append(done)
        if done > 2:
            raise Killed

    with pytest.raises(Killed):
        write_vectors(embedder, documents, tmp_path / "torn", shard_rows=2, progress=kill)
    with pytest.raises(InputError, match="not finished"):
        read_vectors(tmp_path / "torn")
    calls = []
    own = Embedder.embed

    def counted(self, texts, *rest):
        calls.append(len(texts))
        return own(self, texts, *rest)

    monkeypatch.setattr(Embedder, "embed", counted)
    again = write_vectors(embedder, documents, tmp_path / "torn", shard_rows=2)
    assert calls == [2, 1], "the first shard was whole"
    np.testing.assert_array_equal(again.array(), whole.array())
    assert again.ids == whole.ids
    unnamed = write_vectors(embedder, ["x", "y"], tmp_path / "unnamed", "query")
    assert unnamed.ids == ["0", "1"]


def test_shards_of_something_else(embedder, tmp_path, lm):
    folder = tmp_path / "out"
    write_vectors(embedder, DOCUMENTS, folder)

    def again(embedder=embedder, documents=DOCUMENTS, folder=folder, **more):
        return write_vectors(embedder, documents, folder, **more)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for call, message in (
        (lambda: again(documents=DOCUMENTS[1:]), "another data"),
        (lambda: again(kind="query"), "another kind"),
        (lambda: again(Embedder(lm, instruction="x")), "another fingerprint"),
        (lambda: again(shard_rows=0), "at least 1"),
        (lambda: again(documents=[" "]), "no texts"),
        (lambda: again(documents=[DOCUMENTS[0], DOCUMENTS[0]]), "stands twice"),
        (lambda: again(folder=tmp_path / "full"), "not empty"),
        (lambda: again(folder=tmp_path / "full" / "mine.txt"), "Cannot use"),
        (lambda: again(kind="x"), "Unknown kind"),
        (lambda: read_vectors(tmp_path / "full"), "holds no vectors"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    damages = (("00000.npy", "x"), ("00000.json", "{"), ("00000.json", "[]"), ("manifest.json", "[]"))
    for name, text in damages:
        broken = shutil.copytree(folder, tmp_path / f"broken-{len(text)}-{name}", dirs_exist_ok=True)
        (broken / name).write_text(text)
        with pytest.raises(HeadwaterError, match="damaged"):
            read_vectors(broken)


def test_a_model_that_projects_its_last_states():
    """OPT-350m: states of another width than the layers'."""
    config = OPTConfig(
        vocab_size=300,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=256,
        do_layer_norm_before=False,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    own = Embedder(hw.load(model=OPTForCausalLM(config).eval(), tokenizer=byte_tokenizer()))
    assert own.dimension == 16
    assert own.embed(["one", "two"]).shape == (2, 16)
