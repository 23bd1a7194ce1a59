"""Published head sets and the formats of other projects."""

import json
from pathlib import Path

import numpy as np
import pytest

from headwater.errors import FormatError, HeadSetError
from headwater.headset import HeadSet
from headwater.headset.importers import read_duo_attention, read_qrhead, read_retrieval_scores
from headwater.headset.published import load_published, published, published_for_ranking


@pytest.mark.parametrize("name", published())
def test_every_published_set_fits_its_model(name: str) -> None:
    entry, found = published()[name], HeadSet.load(name)
    layers, heads, kv_heads = entry["shape"]
    assert heads % kv_heads == 0
    assert all(layer < layers and head < heads for layer, head in found.heads)
    assert {"model", "method", "paper", "source", "licence", "found_on", "shape"} <= set(found.provenance)
    if found.scores is not None:
        assert found.scores.shape == (layers, heads)
        chosen = np.array([found.scores[head] for head in found.heads])
        assert (np.diff(chosen) <= 0).all()
        assert len(found) == (found.scores > 0.1).sum()


def test_well_known_overlaps() -> None:
    """What qrhead.md 7 computed from the published lists."""

    def shared(one: str, other: str) -> int:
        return len(set(load_published(one).heads) & set(load_published(other).heads))

    eight, three, seventy = "llama-3.1-8b-instruct", "llama-3.2-3b-instruct", "llama-3.1-70b-instruct"
    assert shared(f"{eight}/qr-lme", f"{eight}/core") == 13
    assert shared(f"{eight}/qr-lme", f"{eight}/qr-nq") == 3
    assert shared(f"{eight}/qr-nq", f"{eight}/core") == 3
    assert shared(f"{eight}/qr-nq", f"{eight}/qr-dysco") == 10
    assert shared(f"{three}/qr-lme", f"{three}/qr-nq") == 8
    assert shared(f"{seventy}/qr-lme", f"{seventy}/qr-nq") == 11
    assert len(load_published(f"{seventy}/qr-nq")) == 32


def test_the_set_of_a_model_by_its_name_and_shape() -> None:
    for name in (
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "/m/Llama-3.1-8B-Instruct/",
    ):
        found = published_for_ranking(name, (32, 32, 8))
        assert found is not None
        assert found.provenance["name"] == "llama-3.1-8b-instruct/qr-nq"
    assert published_for_ranking("meta-llama/Llama-3.1-8B-Instruct", (16, 32, 8)) is None, "another shape"
    assert published_for_ranking("meta-llama/Llama-3.1-8B", (32, 32, 8)) is None, "the base model"
    assert published_for_ranking("01-ai/Yi-6B-200K", (32, 32, 4)) is None, "retrieval scores are not for ranking"
    with pytest.raises(HeadSetError, match=r"known: llama-3.2-1b-instruct/qr-nq"):
        load_published("llama-3.2-1b-instruct/none")


def test_a_qrhead_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text('# top\nattn_head_set: "13-18,13-21" # top2\nmodel_name_or_path: "a/b"\n')
    found = HeadSet.load(path)
    assert found == read_qrhead(path)
    assert (found.heads, found.provenance["model"]) == ([(13, 18), (13, 21)], "a/b")


def test_retrieval_scores(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"0-0": [0.2, 0.4], "1-1": [1.0, 0.0], "1-0": [0.0, 0.1]}))
    scores = read_retrieval_scores(path).scores
    np.testing.assert_allclose(scores, [[0.3, np.nan], [0.05, 0.5]])
    assert HeadSet.load(path).heads == [(1, 1), (0, 0)]


def test_a_duo_attention_pattern(tmp_path: Path) -> None:
    path = tmp_path / "full_attention_heads.tsv"
    path.write_text("0.1\t0.9\n0.2\t0.3\n")
    for place in (path, tmp_path):
        scores = read_duo_attention(place, 4).scores
        np.testing.assert_allclose(scores, [[0.1, 0.1, 0.9, 0.9], [0.2, 0.2, 0.3, 0.3]])
    with pytest.raises(FormatError, match="needs the number of query heads"):
        HeadSet.load(path)
    with pytest.raises(FormatError, match="5 query heads cannot share"):
        read_duo_attention(path, 5)
