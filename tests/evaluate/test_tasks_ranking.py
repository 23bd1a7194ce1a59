"""Re-ranking and search tasks on a collection small enough to check by hand, and the fact world's tasks."""

from pathlib import Path
from typing import Any

import pytest

from beir import write_beir
from headwater.data import world
from headwater.errors import InputError
from headwater.evaluate.tasks import collections
from headwater.evaluate.tasks.ranking import Reranking, WorldRanking
from headwater.evaluate.tasks.search import Search
from headwater.evaluate.tasks.task import Item, sample
from headwater.evaluate.tasks.world import ALONE, WorldMemory, WorldReading


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "beir")


def test_candidates_by_bm25(beir: Path) -> None:
    task = Reranking(str(beir), depth=2)
    items = {item.id: item for item in task.load()}
    assert [d.id for d in items["q1"].documents] == ["a1", "c1"]  # the shorter text first
    assert items["q3"].documents == ()
    assert task.score(items["q3"], []) == dict.fromkeys(task.metrics, 0.0)
    assert task.score(items["q1"], ["a1", "c1"])["nDCG@10"] == 1
    assert task.score(items["q1"], ["c1", "a1"])["R@1"] == 0.5
    assert task.relevant(items["q1"]) == ["a1", "c1"]
    assert any("1 judged queries have no candidates" in note for note in task.notes)


def test_candidates_of_a_run(beir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 c1 1 3.0 x\nq1 Q0 a1 2 3.0 x\nb Q0 b 1 1 x\n", encoding="utf-8")
    items = {item.id: item for item in Reranking(str(beir), str(run)).load()}
    assert [d.id for d in items["q1"].documents] == ["c1", "a1"]  # a tie: trec_eval puts the later id first
    shuffled = [tuple(d.id for d in Reranking(str(beir), str(run), shuffle=s).load()[0].documents) for s in range(8)]
    assert len(set(shuffled)) == 2
    run.write_text("q1 Q0 zz 1 3.0 x\n", encoding="utf-8")
    with pytest.raises(InputError, match="lists document 'zz'"):
        Reranking(str(beir), str(run)).load()


def test_identical_ids(beir: Path) -> None:
    for drop, expected in ((True, 0.0), (False, 1.0)):
        task = Search(str(beir), drop_identical=drop)
        item = next(item for item in task.load() if item.id == "b")
        assert task.score(item, ["b", "a1"])["nDCG@10"] == expected
        assert "1 queries share an id" in task.notes[0]


def test_a_data_set_of_the_hub(beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(beir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert len(Search("hub:mteb/some").load()) == 3
    assert asked[0][0] == "mteb/some"
    assert asked[0][1]["repo_type"] == "dataset"

    def fail(name: str, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="Cannot fetch the data set 'mteb/some'"):
        collections.collection("hub:mteb/some")


def test_world_ranking() -> None:
    task = WorldRanking(n=5, candidates=6)
    for item in task.load():
        (gold,) = task.relevant(item)
        names = [d.id for d in item.documents]
        assert len(set(names)) == 6
        assert task.score(item, [gold, *[n for n in names if n != gold]])["R@1"] == 1
        assert all(name in task.by_id for name in names)


def test_world_reading() -> None:
    task = WorldReading(documents=3, n=5)
    for item in task.load():
        gold = item.documents[item.gold[0]]
        assert world.states(gold.text, item.answers[0])
        assert task.score(item, item.answers[0])["EM"] == 1
        assert task.score(item, "nonsense")["EM"] == 0
    assert all(len(item.gold) == 2 for item in WorldReading(n=3, hops=True).load())


@pytest.mark.parametrize("kind", ["conflict", "noise", "agreement"])
def test_world_memory(kind: str) -> None:
    task = WorldMemory(kind, documents=1 if kind == "conflict" else 3, n=6)
    items = task.load()
    alone, beside = items[::2], items[1::2]
    assert [item.id for item in alone] == [item.id + ALONE for item in beside]
    records = []
    for place, (first, second) in enumerate(zip(alone, beside, strict=True)):
        assert first.documents == ()
        assert task.score(first, first.answers[0]) == {}
        assert task.score(second, second.answers[0])[task.metrics[0]] == 1
        said = [first.answers[0] if place < 4 else "no", second.answers[0] if place % 2 else "no"]
        for item, text in zip((first, second), said, strict=True):
            records.append({"id": item.id, "output": text, "scores": task.score(item, text)})
        if kind == "conflict":
            both = f"{second.answers[0]} or {first.answers[0]}"
            assert task.score(second, both)["R_Ad"] == 0
            assert task.score(second, first.answers[0])["others"] == 1
        if kind == "noise":
            assert not any(world.states(d.text, second.answers[0]) for d in second.documents)
    figures = task.finish(records)
    assert figures["right alone"] == pytest.approx(4 / 6)
    if kind != "conflict":
        assert figures["kept of these"] == pytest.approx(0.5)
        assert figures["gained of the rest"] == pytest.approx(0.5)


def test_world_memory_refuses_other_kinds() -> None:
    with pytest.raises(InputError, match="Unknown kind"):
        WorldMemory("odd")


def test_sample_keeps_the_order() -> None:
    items = [Item(f"{i:02d}", "g", unit=f"u{i // 2}") for i in range(50)]
    kept = sample(items, 10, "x")
    assert kept == sorted(kept, key=lambda item: item.id)
    assert len(kept) == 20
    assert len({item.unit for item in kept}) == 10
    assert kept == sample(items, 10, "x") != sample(items, 10, "y")
    assert sample(items, None, "x") == sample(items, 60, "x") == items
    with pytest.raises(InputError, match="at least 1"):
        sample(items, 0, "x")
