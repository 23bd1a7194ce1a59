"""Questions with documents from files: SQuAD, QED, RGB, HotpotQA, MuSiQue."""

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import FormatError, InputError
from headwater.evaluate.answers import contains
from headwater.evaluate.tasks.multihop import HotpotQa, MuSiQue
from headwater.evaluate.tasks.qed import Qed
from headwater.evaluate.tasks.rgb import Rgb
from headwater.evaluate.tasks.squad import Squad
from local_data import local_data
from task_records import HOTPOT, MUSIQUE, QED, RGB


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def text_of(item: Any) -> str:
    return " ".join(f"{document.title or ''} {document.text}" for document in item.documents)


def squad(answers: list[str], impossible: bool | None = None, name: str = "a") -> dict[str, Any]:
    question: dict[str, Any] = {"id": name, "question": "When?", "answers": [{"text": text} for text in answers]}
    return question if impossible is None else {**question, "is_impossible": impossible}


def squad_file(tmp_path: Path, *questions: dict[str, Any]) -> Path:
    paragraphs = [{"context": "It began in 1973.", "qas": list(questions)}]
    return written(tmp_path / "squad.json", {"data": [{"title": "Oil_crisis_%281973%29", "paragraphs": paragraphs}]})


def test_squad_1(tmp_path: Path) -> None:
    (item,) = Squad(squad_file(tmp_path, squad(["1973", "in 1973", "1973"]))).load()
    assert (item.id, item.group, item.question, item.gold) == ("a", "Oil_crisis_%281973%29", "When?", (0,))
    assert (item.answers, item.facets) == (("1973", "in 1973"), {})
    assert (item.documents[0].title, item.documents[0].text) == ("Oil crisis (1973)", "It began in 1973.")


def test_squad_2(tmp_path: Path) -> None:
    task = Squad(squad_file(tmp_path, squad(["1973"], False), squad([], True, "b")))
    known, unknown = task.load()
    assert (known.facets, unknown.facets) == ({"answerable": "yes"}, {"answerable": "no"})
    assert (unknown.answers, unknown.gold) == ((), ())
    assert task.score(unknown, "unanswerable")["EM"] == 1
    assert task.score(known, "unanswerable")["EM"] == 0


def test_damaged_squad(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="data 1, paragraphs 1, qas 1: there is no answer"):
        Squad(squad_file(tmp_path, squad([]))).load()
    with pytest.raises(FormatError, match="'a' stands twice"):
        Squad(squad_file(tmp_path, squad(["x"]), squad(["y"]))).load()


def test_qed(tmp_path: Path) -> None:
    (item,) = Qed(written(tmp_path / "qed.jsonlines", QED)).load()
    assert (item.id, item.group, item.gold) == ("-7", "Garden city", (0,))
    assert item.answers == ("Unwin, Parker", "Unwin and Parker", "Unwin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"example_id": None}, "example_id"),
        ({"original_nq_answers": []}, "holds no answer"),
        ({"original_nq_answers": [{"string": "x"}]}, "not a list"),
        ({"paragraph_text": ""}, "paragraph_text"),
    ],
)
def test_damaged_qed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=f"line 1.*{message}"):
        Qed(written(tmp_path / "qed.jsonlines", QED | change)).load()


def rgb(tmp_path: Path, documents: str, count: int = 5, **change: Any) -> Rgb:
    return Rgb(written(tmp_path / "rgb.json", RGB | change), documents, count)


def test_rgb_right_and_wrong(tmp_path: Path) -> None:
    (right,), (wrong,) = rgb(tmp_path, "right", 2).load(), rgb(tmp_path, "wrong", 2).load()
    assert [document.text for document in right.documents] == RGB["positive"][:2]
    assert [document.text for document in wrong.documents] == RGB["positive_wrong"][:2]
    assert (right.gold, wrong.gold) == ((0, 1), ())
    assert right.answers == wrong.answers == ("Tampa", "Tampa Bay")
    assert right.others == wrong.others == ("Glendale",)
    task = rgb(tmp_path, "wrong")
    assert task.score(wrong, "Glendale")["others"] == 1
    assert task.score(wrong, "Not Glendale but Tampa")["others"] == 0
    task.load()
    assert task.notes == ["1 of 1 questions have fewer than 5 passages."]


def test_rgb_negative(tmp_path: Path) -> None:
    task = rgb(tmp_path, "negative", 2)
    (item,) = task.load()
    assert [document.text for document in item.documents] == ["Nothing.", "Still nothing."]
    assert (item.answers, item.others, item.gold) == ((), ("Tampa", "Tampa Bay"), ())
    assert task.score(item, "I do not know.")["EM"] == 1
    assert task.score(item, "Tampa")["EM"] == 0
    assert task.score(item, "Tampa")["others"] == 1


def test_rgb_mixed(tmp_path: Path) -> None:
    (item,) = rgb(tmp_path, "mixed").load()
    texts = [document.text for document in item.documents]
    edited = [place for place, text in enumerate(RGB["positive_wrong"]) if text in texts]
    assert len(texts) == 5
    assert len(edited) == 1
    assert RGB["positive"][edited[0]] not in texts
    assert {texts[place] for place in item.gold} == set(RGB["positive"]) - {RGB["positive"][edited[0]]}
    assert rgb(tmp_path, "mixed").load() == [item]
    lonely = rgb(tmp_path, "mixed", positive=["Tampa."], positive_wrong=["Glendale."])
    with pytest.raises(FormatError, match="no usable example"):
        lonely.load()


def test_bad_rgb(tmp_path: Path) -> None:
    for documents, count in [("other", 5), ("right", 0), ("mixed", 1)]:
        with pytest.raises(InputError, match="documents"):
            Rgb("x", documents, count)
    for change, message in [
        ({"positive_wrong": []}, "3 passages but 0 edited"),
        ({"answer": [["a"], ["b"]]}, "lists 2 answers"),
        ({"id": 1.5}, "'id'"),
    ]:
        with pytest.raises(FormatError, match=message):
            rgb(tmp_path, "right", **change).load()


def test_hotpot(tmp_path: Path) -> None:
    (item,) = HotpotQa(written(tmp_path / "hotpot.json", [HOTPOT])).load()
    assert (item.id, item.group, item.gold, item.facets) == ("h", "h", (1, 2), {"type": "bridge"})
    assert item.documents[1].text == "Lilu is a spirit. So it is."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supporting_facts": [["Gallu", 0]]}, "name no paragraph"),
        ({"supporting_facts": []}, "name no paragraph"),
        ({"context": [["Dice"]]}, "paragraph 1 of 'context'"),
        ({"context": [["Dice", [1]]]}, "paragraph 1: a sentence"),
    ],
)
def test_damaged_hotpot(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=f"record 1.*{message}"):
        HotpotQa(written(tmp_path / "hotpot.json", [HOTPOT | change])).load()


def test_musique(tmp_path: Path) -> None:
    (item,) = MuSiQue(written(tmp_path / "musique.json", [MUSIQUE])).load()
    assert (item.gold, item.answers, item.facets) == ((0, 2), ("Rogers", "Carl Rogers"), {"hops": "2"})
    assert [document.title for document in item.documents] == ["A", "A", "B"]
    assert len({document.id for document in item.documents}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerable": False}, "MuSiQue-Ans"),
        ({"paragraphs": [{"title": "A", "paragraph_text": "Nothing."}]}, "no paragraph is marked"),
        ({"answer_aliases": "Rogers"}, "answer_aliases"),
    ],
)
def test_damaged_musique(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        MuSiQue(written(tmp_path / "musique.json", [MUSIQUE | change])).load()


def test_the_real_squad() -> None:
    items = Squad(local_data("qa/squad/squad-dev-v2.0.rebuilt.json")).load()
    impossible = [item for item in items if item.facets["answerable"] == "no"]
    assert (len(items), len(impossible)) == (11_873, 5_945)
    assert not any(item.answers for item in impossible)
    first = Squad(local_data("qa/squad/squad-dev-v1.1.rebuilt.json")).load()
    assert (len(first), len({item.group for item in first})) == (10_570, 48)
    assert not any(item.facets for item in first)
    assert all(answer in text_of(item) for item in [*items, *first] for answer in item.answers)


def test_the_real_qed() -> None:
    items = Qed(local_data("qa/qed/qed-dev.jsonlines")).load()
    assert len(items) == 1_355
    assert all(any(answer in text_of(item) for answer in item.answers) for item in items if len(item.answers) == 1)


def test_the_real_rgb() -> None:
    path = local_data("conflict/rgb/en_fact.json")
    right, wrong, negative, mixed = (Rgb(path, kind).load() for kind in ("right", "wrong", "negative", "mixed"))
    assert (len(right), len(wrong)) == (100, 100)
    assert not any(contains(text_of(item), item.others) for item in negative)
    assert all(len(item.documents) == 5 and item.gold for item in mixed)


def test_the_real_multihop_questions() -> None:
    hotpot = HotpotQa(local_data("qa/multihop/hotpotqa_train.json")).load()
    musique = MuSiQue(local_data("qa/multihop/musique_train.json")).load()
    assert (len(hotpot), len(musique)) == (100, 100)
    for item in hotpot:
        gold = " ".join(f"{item.documents[place].title} {item.documents[place].text}" for place in item.gold)
        assert item.answers[0] in ("yes", "no") or contains(gold, item.answers)
        assert len(item.gold) == 2
    golds = [" ".join(f"{item.documents[p].title} {item.documents[p].text}" for p in item.gold) for item in musique]
    stated = [contains(gold, item.answers) for gold, item in zip(golds, musique, strict=True)]
    assert sum(stated) == 97  # of three questions the answer is worded otherwise
    assert all(len(item.gold) == int(item.facets["hops"]) for item in musique)
