"""The sets: what each kind shows, who never meets whom, and what oracles score on them."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.parenting.build import ASKED, ParentingSets, check_item
from headwater.data.parenting.items import KINDS, ItemDocument, ParentingItem, extraction_target
from headwater.data.parenting.match import hits, stated_in, verdict
from headwater.data.parenting.passages import Pool
from headwater.data.parenting.questions import Passage, ProbeQuestion, QuestionSet, answer_type
from headwater.data.parenting.records import ProbeRecord
from headwater.data.parenting.sources import question_set
from headwater.data.parenting.splits import deal_sets
from headwater.errors import InputError

SIZES = {"train": 60, "development": 20, "test": 40}


def answered(question: ProbeQuestion, said: str, label: str) -> ProbeRecord:
    return ProbeRecord(question.id, question.wordings[:1], question.answers, (said,), (said,) * 8, label)


@pytest.fixture(scope="module")
def facts():
    """Some questions of the fact world, those about known countries known."""
    source = question_set("world")
    few = random.Random(1).sample(source.questions, 150)
    probed = {}
    for place, q in enumerate(few):
        if q.group in source.placed or place % 5 == 0:
            probed[q.id] = answered(q, "the moon", "wrong")
        else:
            probed[q.id] = answered(q, f"It is {q.answers[0]}", "known")
    splits, _ = deal_sets([source], [])
    return source, splits, probed


@pytest.fixture(scope="module")
def built(facts):
    source, splits, probed = facts
    return ParentingSets(sizes=SIZES).build([source], splits, probed)[0]


def test_every_item_measures_what_its_kind_says(built) -> None:
    assert set(built) == {"train", "development", "test"}
    assert set(built["train"]) == set(KINDS)
    assert set(built["test"]) == {*KINDS, ASKED}
    for split, sets in built.items():
        for kind, items in sets.items():
            assert 0 < len(items) <= SIZES[split], (split, kind)
            assert len({item.id for item in items}) == len(items)
            for item in items:
                check_item(item)
                assert item.kind == ("empty" if kind == ASKED else kind)
                assert item.probe["greedy"] == item.memory
                roles = Counter(document.role for document in item.documents)
                if kind == "a":
                    assert item.probe["label"] == "known"
                    assert roles["edited"] == 1
                    assert item.target == item.stated[0]
                if kind in ("r", "empty"):
                    assert item.target == item.memory
                    assert not roles["gold"]
                if kind == "c":
                    assert roles["same_topic"] >= 1
                    assert roles["off_topic"] >= 1
                    assert item.target == extraction_target(item.documents)
                if kind == "agree":
                    assert (roles["gold"], item.target) == (1, item.gold[0])


def test_nothing_of_one_split_stands_in_another(built, facts) -> None:
    source, splits, _ = facts
    for split, sets in built.items():
        items = [item for each in sets.values() for item in each]
        assert {splits["world", item.group] for item in items} == {split}
        titles = {document.title for item in items for document in item.documents}
        assert {splits["world", title] for title in titles} == {split}, "noise comes from the split too"
    trained = {item.group for each in built["train"].values() for item in each}
    assert trained <= set(world.countries("known"))
    unseen = {text for q in source.questions for text in q.tested}
    assert not unseen & {item.question for each in built["train"].values() for item in each}
    assert unseen & {item.question for item in built["test"]["a"]}


def test_items_lead_back_to_their_sources(built, facts) -> None:
    by_id = {q.id: q for q in facts[0].questions}
    passages = {p.document.id: p.document for p in facts[0].passages}
    for sets in built.values():
        for items in sets.values():
            for item in items:
                question = by_id[item.source]
                place = int(re.search(r"#(\d)/", item.id)[1])
                assert item.question == (*question.wordings, *question.tested)[place]
                assert item.group == question.group
                for shown in item.documents:
                    kept = passages[re.sub("/edited$", "", shown.id)]
                    assert shown.role == "edited" or shown.text == kept.text
                    assert (shown.role in ("gold", "edited")) == (kept.id == question.paragraph)


def test_sizes_of_prompts_and_places_of_gold(facts) -> None:
    source, splits, probed = facts
    sets = ParentingSets(sizes={"train": 200, "development": 0, "test": 0})
    items = sets.build([source], splits, probed)[0]["train"]
    shown = [len(item.documents) for item in items["r"]]
    assert set(shown) == set(range(1, 7))
    assert min(len(item.documents) for item in items["c"]) == 3
    noise = Counter(document.role for item in items["r"] for document in item.documents)
    assert 0.4 < noise["same_topic"] / noise.total() < 0.6
    places = Counter(
        [d.role for d in item.documents].index("gold") for item in items["agree"] if len(item.documents) == 3
    )
    assert set(places) == {0, 1, 2}
    half = sum(any(d.role == "edited" for d in item.documents) for item in items["c"]) / len(items["c"])
    assert 0.3 < half < 0.7
    same = [d for item in items["r"] for d in item.documents if d.role == "same_topic"]
    groups = {q.id: q.group for q in source.questions}
    own = sum(d.title == groups[item.source] for item in items["r"] for d in item.documents if d in same)
    assert 0.2 < own / len(same) < 0.8, "the same country, or the same relation elsewhere"
    fixed = ParentingSets(sizes=SIZES, documents=(3, 3)).build([source], splits, probed)[0]
    assert {len(item.documents) for item in fixed["train"]["a"]} == {3}


def test_the_same_seed_gives_the_same_sets(facts, built) -> None:
    source, splits, probed = facts
    assert ParentingSets(sizes=SIZES).build([source], splits, dict(reversed(probed.items())))[0] == built
    other = ParentingSets(sizes=SIZES, seed=1).build([source], splits, probed)[0]
    assert other["train"]["a"] != built["train"]["a"]


def test_oracles(built) -> None:
    def reads(item: ParentingItem) -> str:
        return item.in_documents[0] if item.in_documents else item.documents[0].text if item.documents else ""

    test = built["test"]
    for oracle, adherence, robustness in ((reads, 1, 0), (lambda item: item.memory, 0, 1)):
        kept = [verdict(oracle(item), item.in_documents, item.in_memory) for item in test["a"]]
        assert kept.count("document") == adherence * len(kept)
        assert kept.count("memory") == (1 - adherence) * len(kept)
        assert sum(hits(oracle(item), item.in_memory) for item in test["r"]) == robustness * len(test["r"])
        assert all(hits(oracle(item), item.right) for item in test["agree"])


GOLD = ("The song of {} was written by {}. It was sung by a man.", "Ann Lee", "Bob Roy", "Eve Low", "Joe Fox")


def articles() -> QuestionSet:
    """Four articles with a paragraph that answers, one that does not, and a question that nothing answers."""
    questions, passages = [], []
    for number, writer in enumerate(GOLD[1:]):
        title = f"T{number}"
        texts = (GOLD[0].format(title, writer), f"{title} rained.", f"{title} has a hall. Moon Hall it is.")
        for place, text in enumerate(texts):
            passages.append(Passage(Document(text, f"s/{title}/{place}", title), title))
        name = answer_type(writer)
        questions.append(
            ProbeQuestion(f"s/{number}", title, (f"Who wrote {title}?",), (writer,), f"s/{title}/0", type=name)
        )
        questions.append(ProbeQuestion(f"s/{number}no", title, (f"Who sang {title}?",), (), f"s/{title}/1"))
        questions.append(
            ProbeQuestion(
                f"s/{number}x", title, (f"Which hall has {title}?",), ("Moon Hall",), f"s/{title}/2", type=name
            )
        )
    return QuestionSet("s", tuple(questions), tuple(passages))


def sets_of(probed: dict[str, ProbeRecord], **settings):
    source = articles()
    splits = dict.fromkeys([("s", group) for group in source.groups], "test")
    built, dropped = ParentingSets(**settings).build([source], splits, probed)
    return built["test"], dropped


def test_edited_paragraphs() -> None:
    source = articles()
    probed = {q.id: answered(q, q.answers[0], "known") for q in source.questions if q.answers}
    assert not sets_of(probed)[0]["a"], "auto: of such sources only what the model gets wrong"
    found, dropped = sets_of(probed, conflict="edited")
    assert len(found["a"]) == 8
    for item in found["a"]:
        (shown,) = [d for d in item.documents if d.role == "edited"]
        assert shown.text.count(item.target) == 1
        assert item.target != item.gold[0]
        assert item.target in (*GOLD[1:], "Moon Hall")
        check_item(item)
    assert not dropped
    pool = Pool(source.passages, source.questions)
    question = source.questions[0]
    document, answers = pool.edited(question, (), random.Random(0))
    assert document.text == GOLD[0].format("T0", answers[0])
    assert pool.edited(question, answers, random.Random(0))[1] != answers, "what is remembered is no other answer"
    assert pool.edited(question, (*GOLD[1:], "Moon Hall"), random.Random(0)) is None
    backslash = [ProbeQuestion("b", "T9", ("Who?",), ("A\\1 Zed",), "s/T0/0", type="name")]
    assert Pool(source.passages, backslash).edited(question, (), random.Random(0))[1] == ("A\\1 Zed",)
    odd = ProbeQuestion("o", "T0", ("Who?",), ("Ann",), "s/T0/0", type="name")
    assert pool.edited(odd, ("Lee",), random.Random(0)) is None, "the rest of the name survives"
    phrase = ProbeQuestion("o", "T0", ("Who?",), ("a man",), "s/T0/0")
    assert pool.edited(phrase, (), random.Random(0)) is None, "no value of this type"
    absent = ProbeQuestion("o", "T0", ("Who?",), ("Zed Zed",), "s/T0/0", type="name")
    assert pool.edited(absent, (), random.Random(0)) is None


def test_what_the_model_gets_wrong() -> None:
    source = articles()
    wrong = {q.id: answered(q, "Zoe", "wrong") for q in source.questions if q.answers}
    found, _ = sets_of(wrong)
    assert {item.target for item in found["a"]} == {*GOLD[1:], "Moon Hall"}
    assert all(verdict("Zoe", item.in_documents, item.in_memory) == "memory" for item in found["a"])
    assert not found["r"]
    assert not found["agree"]
    assert len(found["c"]) == 8, "extraction needs no memory"
    unsure = {q.id: answered(q, "sung by a man", "wrong") for q in source.questions if q.answers}
    found, dropped = sets_of(unsure)
    assert len(found["a"]) == 4
    assert dropped["test/a: the paragraph states what the model says too"] == 4


def test_unanswerable_questions() -> None:
    source = articles()
    probed = {q.id: answered(q, "Zoe", "wrong") for q in source.questions}
    found, _ = sets_of(probed, robust="unanswerable")
    assert len(found["r"]) == 4
    for item in found["r"]:
        assert (item.target, item.gold) == ("Zoe", ())
        assert any(d.id == f"s/{item.group}/1" and d.role == "same_topic" for d in item.documents)
    probed = {q.id: answered(q, "rained", "wrong") for q in source.questions}
    assert not sets_of(probed, robust="unanswerable")[0]["r"]


def test_answers_that_their_paragraph_does_not_state() -> None:
    source = articles()
    odd = replace(source, questions=tuple(replace(q, answers=q.answers and ("Zed Zed",)) for q in source.questions))
    splits = dict.fromkeys([("s", group) for group in source.groups], "test")
    for label_, kinds in (("known", ("agree", "c")), ("wrong", ("a", "c"))):
        probed = {
            q.id: answered(q, q.answers[0] if label_ == "known" else "Zoe", label_) for q in odd.questions if q.answers
        }
        built, dropped = ParentingSets().build([odd], splits, probed)
        for kind in kinds:
            assert not built["test"][kind]
            assert dropped[f"test/{kind}: the paragraph does not state the answer"] == 8
        for item in (item for items in built["test"].values() for item in items):
            check_item(item)


def test_possessives_are_answers_too() -> None:
    texts = ("Ann Lee's song was sung.", "It is Ann Lee\u2019s town.", "It rained.", "Bob Roy's song was sung.")
    passages = [Passage(Document(text, str(place)), "GH"[place // 3]) for place, text in enumerate(texts)]
    questions = [
        ProbeQuestion("s/g", "G", ("Whose?",), ("Ann Lee",), "0", type="name"),
        ProbeQuestion("s/h", "H", ("Whose?",), ("Bob Roy",), "3", type="name"),
    ]
    pool = Pool(passages, questions)
    assert {d.id for d in pool.beside(questions[0], 3, ("Ann Lee",), random.Random(0))} == {"2", "3"}
    document, stated = pool.edited(questions[0], ("Ann Lee",), random.Random(0))
    assert (document.text, stated) == ("Bob Roy's song was sung.", ("Bob Roy",))


def test_a_value_that_does_not_fit_is_followed_by_another() -> None:
    source = articles()
    pool = Pool(source.passages, source.questions)
    found = [pool.edited(source.questions[0], ("Bob Roy", "Eve Low", "Moon"), random.Random(seed)) for seed in range(9)]
    assert {edit[1] for edit in found} == {("Joe Fox",)}, "Bob, Eve and the hall are drawn first now and then"


def test_a_drop_counts_once_whatever_the_wordings() -> None:
    question = ProbeQuestion("s/q", "G", ("Who?", "Which?", "Whose?"), ("Ann",), "0")
    source = QuestionSet("s", (question,), (Passage(Document("It rained.", "0"), "G"),))
    probed = {"s/q": answered(question, "Ann", "known")}
    _, dropped = ParentingSets().build([source], {("s", "G"): "train"}, probed)
    assert dropped["train/agree: the paragraph does not state the answer"] == 1
    assert dropped["train/r: no noise without the answer"] == 1


def test_noise_without_the_answer_or_none() -> None:
    source = articles()
    probed = {q.id: answered(q, q.answers[0], "known") for q in source.questions if q.answers}
    found, _ = sets_of(probed)
    for item in found["r"]:
        assert not any(stated_in(d.text, item.gold) for d in item.documents)
    alone = Pool(source.passages[:1], source.questions[:1])
    assert alone.beside(source.questions[0], 3, (), random.Random(0)) == []
    pool = Pool(source.passages, source.questions)
    assert pool.beside(source.questions[0], 3, ("rained", "hall", "man"), random.Random(0)) == []
    both = pool.beside(source.questions[0], 2, (), random.Random(0), both=True)
    assert sorted(d.role for d in both) == ["off_topic", "same_topic"]
    assert pool.beside(source.questions[0], 3, ("T0",), random.Random(0), both=True) == []
    short = sets_of(probed, documents=(1, 1))
    assert all(len(item.documents) == 1 for item in short[0]["r"])


def test_items_that_do_not_fit_are_counted() -> None:
    source = articles()
    probed = {q.id: answered(q, q.answers[0], "known") for q in source.questions if q.answers}
    splits = dict.fromkeys([("s", group) for group in source.groups], "train")
    built, dropped = ParentingSets().build([source], splits, probed, fits=lambda item: item.kind != "agree")
    assert not built["train"]["agree"]
    assert dropped == {"train/agree: longer than the model reads": 8}


def test_items_that_measure_nothing_are_refused() -> None:
    known = {"greedy": "Ann", "label": "known"}

    def item(kind: str, *documents: ItemDocument, **more) -> ParentingItem:
        given = {"memory": "Ann", "probe": known, **more}
        return ParentingItem("s/q#0/x", "g", kind, "Who?", documents, "Ann", ("Ann",), **given)

    gold, noise = ItemDocument("Ann did.", "gold"), ItemDocument("It rained.", "off_topic", id="n")
    check_item(item("agree", gold, noise))
    check_item(item("a", ItemDocument("Bob did.", "edited"), noise, stated=("Bob",)))
    for bad, message in (
        (item("agree", gold, ItemDocument("So did Ann.", "same_topic", id="n")), "noise 'n'.*states an answer"),
        (item("r", ItemDocument("x", "off_topic", "Ann", "n")), "noise 'n'.*states an answer"),
        (item("agree", ItemDocument("Bob did.", "gold")), "states no answer"),
        (item("a", ItemDocument("Bob and Ann did.", "edited"), stated=("Bob",)), "states what is remembered"),
        (item("a", noise), "0 relevant documents"),
        (item("r"), "0 relevant documents"),
        (item("empty", gold), "1 relevant documents"),
        (item("agree", gold, memory="Bob", probe={}), "does not agree"),
    ):
        with pytest.raises(InputError, match=message):
            check_item(bad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conflict": "odd"}, "Unknown conflict 'odd'"),
        ({"robust": "odd"}, "Unknown robust 'odd'"),
        ({"documents": (0, 3)}, "from 1 on"),
        ({"documents": (4, 3)}, "from 1 on"),
        ({"sizes": {"odd": 3}}, "numbers from 0 on for train, development, test"),
        ({"sizes": {"train": -1}}, "numbers from 0 on"),
    ],
)
def test_bad_settings(settings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ParentingSets(**settings)
