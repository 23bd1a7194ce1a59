"""Permutation generation with a model that sorts, one that rambles, and a random one; the prompt; bad input."""

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
from headwater.errors import ContextOverflowError, InputError
from headwater.rank.listwise import ListwiseRanking, RankGPT, parse_order
from models import byte_tokenizer, random_lm


class Scripted:
    """A model that answers every prompt with `say(prompt)`; remembers prompts, limits and answers."""

    def __init__(self, say: Callable[[str], str], max_length: int = 100_000) -> None:
        self.tokenizer, self.name, self.max_length = byte_tokenizer(), "scripted", max_length
        self.device = torch.device("cpu")
        self.model = SimpleNamespace(generate=self.generate)
        self.say = say
        self.prompts: list[str] = []
        self.limits: list[int] = []
        self.answers: list[str] = []

    def generate(
        self, ids: torch.Tensor, generation_config: Any, stopping_criteria: list[Any], **_: Any
    ) -> torch.Tensor:
        length = ids.shape[1]
        self.prompts.append(self.tokenizer.decode(ids[0]))
        self.limits.append(generation_config.max_new_tokens)
        said = self.tokenizer(self.say(self.prompts[-1]), add_special_tokens=False)["input_ids"]
        for token in said[: generation_config.max_new_tokens]:
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            if bool(stopping_criteria[0](ids, None).all()):
                break
        self.answers.append(self.tokenizer.decode(ids[0, length:]))
        return ids


def sorts(prompt: str) -> str:
    """The order of the passages `value <n>` in a prompt, largest first."""
    found = [(int(number), int(value)) for number, value in re.findall(r"\[(\d+)\] value (\d+)", prompt)]
    numbers = [number for number, _ in sorted(found, key=lambda pair: -pair[1])]
    return " > ".join(f"[{number}]" for number in numbers)[1:]


def values(n: int) -> list[hw.Document]:
    return [hw.Document(f"value {(i * 37 + 5) % 211}", id=f"d{i}") for i in range(n)]


def by_hand(documents: list[hw.Document], window: int, step: int) -> list[str]:
    """The ids after the windows, back to front, each sorted."""
    order, end = list(documents), len(documents)
    while True:
        start = max(0, end - window)
        order[start : start + window] = sorted(
            order[start : start + window], key=lambda document: -int(document.text.split()[1])
        )
        if start == 0:
            return [str(document.id) for document in order]
        end -= step


@pytest.mark.parametrize(
    ("n", "window", "step"), [(2, 20, 10), (20, 20, 10), (21, 20, 10), (45, 20, 10), (200, 20, 10), (33, 7, 3)]
)
def test_windows_slide_to_the_front(n: int, window: int, step: int) -> None:
    lm = Scripted(sorts)
    ranking = RankGPT(lm, window, step, max_new_tokens=200).rank("Which?", values(n))  # type: ignore[arg-type]
    assert [ranked.id for ranked in ranking] == by_hand(values(n), window, step)
    calls = max(0, math.ceil((n - window) / step)) + 1
    assert ranking.calls == ranking.windows == ranking.well_formed == len(lm.prompts) == calls
    assert ranking.strategy == ("one prompt" if calls == 1 else "slide")
    assert [ranked.score for ranked in ranking] == [-float(place) for place in range(n)]


def test_one_shot_sorts_everything() -> None:
    lm = Scripted(sorts)
    ranking = RankGPT(lm, window=50, max_new_tokens=200).rank("Which?", values(40), top_k=3)  # type: ignore[arg-type]
    best = sorted(values(40), key=lambda document: -int(document.text.split()[1]))
    assert [ranked.document for ranked in ranking] == best[:3]
    assert (ranking.calls, lm.limits) == (1, [400])


def test_rank_and_score_agree() -> None:
    ranker = RankGPT(Scripted(sorts))  # type: ignore[arg-type]
    documents = [*values(3), hw.Document(" "), hw.Document("value 210", title="T")]
    scores, ranking = ranker.score("Which?", documents), ranker.rank("Which?", documents)
    assert scores.dtype == np.float32
    assert [scores[ranked.index] for ranked in ranking] == [ranked.score for ranked in ranking]
    assert (ranking[-1].index, ranking[-1].score) == (3, -math.inf)


def test_the_prompt() -> None:
    lm = Scripted(lambda _: "2] > [1]")
    text = "one two  three\nfour " * 100
    documents = [hw.Document(text, title="A title"), hw.Document(" <eos> short "), hw.Document("")]
    RankGPT(lm).rank(" Which <bos> city? ", documents)  # type: ignore[arg-type]
    (prompt,) = lm.prompts
    assert prompt.count("Which <bos> city?") == 2
    passages = re.search(r"\n\n\[1\] (.*)\n\n\[2\] <eos> short\n\nQuery: Which <bos> city\?\n\n", prompt)
    assert passages is not None
    assert passages[1].split() == ["A", "title", *text.split()][:300]
    assert "  " not in passages[1]
    assert "[a] > [b] > ..." in prompt
    assert prompt.endswith("\n\nRanked Passages: [")
    assert lm.limits == [100]


def test_texts_never_yield_special_tokens_and_chat_models_get_their_turn() -> None:
    lm = Scripted(lambda _: "2] > [1]")
    lm.tokenizer.chat_template = "<bos><user>{% for m in messages %}{{ m['content'] }}{% endfor %}</user><bot>"
    ids = RankGPT(lm)._prompt("<bos>?", [hw.Document("<eos>"), hw.Document("<bos>")])  # type: ignore[arg-type]
    assert ids.count(lm.tokenizer.bos_token_id) == 1
    assert lm.tokenizer.eos_token_id not in ids
    prompt = lm.tokenizer.decode(ids)
    assert prompt.startswith("<bos><user>Here are 2 passages")
    assert prompt.endswith("write nothing else.</user><bot>Ranked Passages: [")


@pytest.mark.parametrize(
    ("answer", "tolerant", "strict", "flawless"),
    [
        ("[2] > [1] > [3]", [1, 0, 2], [1, 0, 2], True),
        ("[3]>[1] > [2].\n", [2, 0, 1], [2, 0, 1], True),
        ("[3] > [1]", [2, 0, 1], [0, 1, 2], False),
        ("[3] > [3] > [1] > [2]", [2, 0, 1], [0, 1, 2], False),
        ("[3] > [7] > [0] > [1] > [2]", [2, 0, 1], [0, 1, 2], False),
        ("[3, 1 and 2", [2, 0, 1], [0, 1, 2], False),
        ("[none of them", [0, 1, 2], [0, 1, 2], False),
        ("[", [0, 1, 2], [0, 1, 2], False),
    ],
)
def test_parsing(answer: str, tolerant: list[int], strict: list[int], flawless: bool) -> None:
    assert parse_order(answer, 3) == (tolerant, flawless)
    assert parse_order(answer, 3, strict=True) == (strict, flawless)


def test_flawed_answers_are_counted() -> None:
    said = iter(["3] > [1]", "3] > [2] > [1]"])
    ranking = RankGPT(Scripted(lambda _: next(said)), 3, 1, parse="strict").rank("q?", list("abcd"))  # type: ignore[arg-type]
    assert [ranked.document.text for ranked in ranking] == ["c", "b", "a", "d"]
    assert (ranking.calls, ranking.well_formed) == (2, 1)


def test_an_answer_is_over_when_every_passage_is_named() -> None:
    lm = Scripted(lambda _: "2] > [1] > [2] and so on and on")
    ranking = RankGPT(lm).rank("q?", ["a", "b"])  # type: ignore[arg-type]
    assert (lm.answers, ranking.well_formed) == (["2] > [1]"], 1)
    lm = Scripted(lambda _: "12] > [1] > [10] > " + " > ".join(f"[{n}]" for n in (2, 3, 4, 5, 6, 7, 8, 9, 11)))
    ranking = RankGPT(lm).rank("q?", list("abcdefghijkl"))  # type: ignore[arg-type]
    assert "".join(ranked.document.text for ranked in ranking) == "lajbcdefghik"


def test_nothing_to_order() -> None:
    ranker = RankGPT(Scripted(sorts))  # type: ignore[arg-type]
    empty = ranker.rank("q?", [])
    assert isinstance(empty, ListwiseRanking)
    assert (list(empty), empty.calls) == ([], 0)
    assert ranker.score("q?", []).shape == (0,)
    single = ranker.rank("q?", ["", "a"])
    assert ([ranked.index for ranked in single], single.calls) == ([1, 0], 0)


def test_a_random_model_gives_some_order_greedily() -> None:
    lm = random_lm(max_position_embeddings=4096)
    lm.model.generation_config.do_sample, lm.model.generation_config.temperature = True, 2.0
    ranker = RankGPT(lm, window=4, step=2, max_new_tokens=20)
    ranking = ranker.rank("Which city?", values(7))
    assert sorted(ranked.index for ranked in ranking) == list(range(7))
    assert ranking.calls == 3
    assert list(ranker.rank("Which city?", values(7))) == list(ranking)


def test_bad_input() -> None:
    lm: Any = Scripted(sorts, max_length=1000)
    for window, step in ((1, 1), (5, 0), (5, 6)):
        with pytest.raises(InputError, match="window"):
            RankGPT(lm, window, step)
    with pytest.raises(InputError, match="at least 1"):
        RankGPT(lm, words=0)
    with pytest.raises(InputError, match="at least 1"):
        RankGPT(lm, max_new_tokens=0)
    with pytest.raises(InputError, match="parse"):
        RankGPT(lm, parse="loose")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="template"):
        RankGPT(lm, template="other")
    ranker = RankGPT(lm)
    with pytest.raises(InputError, match="blank"):
        ranker.rank(" ", ["a", "b"])
    with pytest.raises(InputError, match="Every document is blank"):
        ranker.rank("q?", ["", " "])
    with pytest.raises(InputError, match="top_k"):
        ranker.rank("q?", ["a", "b"], top_k=0)
    with pytest.raises(ContextOverflowError, match="smaller window or fewer words") as caught:
        ranker.rank("q?", ["long text " * 150, "b"])
    assert caught.value.tokens > caught.value.limit == 1000
