"""Tasks on probabilities: two continuations, and the loss of text."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import FormatError, InputError
from headwater.evaluate.tasks.counterfact import Counterfact
from headwater.evaluate.tasks.perplexity import Perplexity, windows
from headwater.evaluate.tasks.task import TextLoss
from local_data import local_data
from task_records import COUNTERFACT


def test_counterfact(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([COUNTERFACT, COUNTERFACT]))
    with_context, without = Counterfact(path).load()[0], Counterfact(path, context=False).load()[0]
    assert (with_context.prompt, without.prompt) == (COUNTERFACT["prompt"], COUNTERFACT["base_prompt"])
    assert with_context.options == without.options == (" Volvo", " Toyota")
    assert (with_context.right, without.right, with_context.group) == (0, 1, "Camry")
    task = Counterfact(path)
    assert task.score(with_context, [-1.0, -3.0]) == {"accuracy": 1.0, "margin": 2.0}
    assert task.score(without, [-1.0, -3.0]) == {"accuracy": 0.0, "margin": -2.0}
    assert task.score(without, [-1.0, -1.0]) == {"accuracy": 0.0, "margin": 0.0}
    with pytest.raises(InputError, match="two options, got 3"):
        task.score(without, [0.0] * 3)


@pytest.mark.parametrize("change", [{"prompt": None}, {"target_new": " Toyota"}, {"subject": " "}])
def test_damaged_counterfact(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([COUNTERFACT, COUNTERFACT | change]))
    with pytest.raises(FormatError, match="record 2"):
        Counterfact(path).load()


WIKI = """
 = Du Fu =

 = = Life = =
 He was born in 712 .
 He wrote .

 = = Works = =
 Many poems .

 = Li Bai =
 He drank .
""".replace("\n", " \n")


def cut(text: str, words: int) -> list[str]:
    return [" ".join(text[window.start : window.end].split()) for window in windows(text, words)]


def test_windows_of_wikitext() -> None:
    first, second = "= Du Fu = = = Life = = He was born in 712 . He wrote .", "= = Works = = Many poems ."
    assert cut(WIKI, 100) == [f"{first} {second}", "= Li Bai = He drank ."]
    assert cut(WIKI, 20) == [first, second, "= Li Bai = He drank ."]
    assert [window.article for window in windows(WIKI, 20)] == ["1. Du Fu", "1. Du Fu", "2. Li Bai"]
    assert cut(WIKI, 15)[:2] == ["= Du Fu = = = Life = = He was born in 712 .", "He wrote . = = Works = = Many poems ."]
    assert cut(WIKI, 14)[:2] == ["= Du Fu = = = Life", "= = He was born in 712 . He wrote ."]


def test_windows_of_markdown_and_plain_text() -> None:
    text = "# One\n\nA b.\n\n## Two\nC d e.\n\n# Three #\nF.\n"
    assert cut(text, 50) == ["# One A b. ## Two C d e.", "# Three # F."]
    assert [window.article for window in windows(text, 50)] == ["1. One", "2. Three"]
    assert cut("a b\nc\n\nd e\n\n\nf g", 4) == ["a b c", "d e f g"]
    assert cut("a b c d e f g", 5) == ["a b c", "d e f g"]
    assert cut("a b\n\nc", 2) == ["a b c"]  # a word alone joins


TEXT = st.text(alphabet="ab =#\n\t\u2028", max_size=120)


@given(TEXT, st.integers(2, 9))
def test_windows_hold_every_word_once(text: str, words: int) -> None:
    found = windows(text, words)
    assert [word for window in found for word in text[window.start : window.end].split()] == text.split()
    assert all(len(text[window.start : window.end].split()) <= words + 1 for window in found)
    assert all(text[window.start : window.end] == text[window.start : window.end].strip() for window in found)


def test_perplexity(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(WIKI, encoding="utf-8")
    task = Perplexity(path, words=20)
    items = task.load()
    assert [(item.id, item.group) for item in items] == [("0", "1. Du Fu"), ("1", "1. Du Fu"), ("2", "2. Li Bai")]
    assert task.score(items[0], TextLoss(math.log(8), 3, 6)) == pytest.approx({"bits per byte": 0.5, "perplexity": 2})
    path.write_text("One two.\n\nThree four.")
    assert [(item.group, item.text) for item in Perplexity(path, 2).load()] == [("0", "One two."), ("1", "Three four.")]


def test_sums_are_divided_not_ratios_averaged(tmp_path: Path) -> None:
    task = Perplexity(tmp_path / "text.txt")
    losses = [TextLoss(10.0, 10, 40), TextLoss(300.0, 30, 50)]
    records = [{"id": str(n), "scores": {}, "output": list(loss)} for n, loss in enumerate(losses)]
    assert task.finish(records) == pytest.approx(
        {"bits per byte (all)": 310 / math.log(2) / 90, "perplexity (all)": math.exp(310 / 40)}
    )
    assert task.finish([]) == {}
    assert task.lower_is_better >= {*task.metrics, *task.finish(records)}


def test_bad_perplexity(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(InputError, match="at least 2 words"):
        Perplexity(path, 1)
    with pytest.raises(InputError, match=r"text\.txt"):
        Perplexity(path).load()
    path.write_text(" \n\n")
    with pytest.raises(FormatError, match="blank"):
        Perplexity(path).load()
    path.write_bytes(b"a\0b")
    with pytest.raises(FormatError, match="binary"):
        Perplexity(path).load()
    path.write_text("a b")
    task = Perplexity(path)
    for loss in (TextLoss(math.nan, 1, 1), TextLoss(1.0, 0, 1), TextLoss(1.0, 1, 0)):
        with pytest.raises(InputError, match="Window 0"):
            task.score(task.load()[0], loss)
    with pytest.raises(InputError, match="Window 7"):
        task.finish([{"id": "7", "output": [math.inf, 1, 1]}])


def test_the_real_counterfacts() -> None:
    for name in ("gpt2", "pythia-6.9b"):
        path = local_data(f"conflict/counterfact_compmech/full_data_sampled_{name}_with_subjects.json")
        items = Counterfact(path).load()
        assert len(items) == 10_000
        assert all(item.options[item.right].strip() in item.prompt for item in items)


def test_the_real_wikitext() -> None:
    task = Perplexity(local_data("text/wikitext-2/test.txt"))
    items = task.load()
    assert sum(len(item.text.split()) for item in items) == 241_211
    assert all(2 <= len(item.text.split()) <= 301 for item in items)
    assert len({item.group for item in items}) == 62  # 60 articles, and two formulas between equals signs
