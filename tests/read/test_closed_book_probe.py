"""The closed-book probe: answers equal a slow reference, whatever the batch; a killed run goes on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from families import family_model
from headwater.data.parenting.match import tokens
from headwater.data.parenting.questions import ProbeQuestion
from headwater.errors import ContextOverflowError, FormatError, InputError, ModelError
from headwater.model.greedy import end_ids
from headwater.prompt import prompt_template
from headwater.read import probe as probe_module
from headwater.read.probe import ClosedBookProbe, chosen
from headwater.read.reader import Reader
from models import byte_tokenizer, random_lm

QUESTIONS = [
    ProbeQuestion(f"q{n}", f"g{n}", ("Who" + "?" * (n % 3 + 1), "Who on earth?"), ("Ann",), "d") for n in range(7)
]
SMALL = ClosedBookProbe(samples=3, new_tokens=5, batch=3)


def slow_choice(row: list[float], draw: random.Random, temperature: float, top_p: float) -> int:
    """One token from the nucleus, step by step."""
    weights = torch.softmax(torch.tensor(row) / temperature, -1).tolist()
    order = sorted(range(len(row)), key=lambda token: -weights[token])
    nucleus, mass = [], 0.0
    for token in order:
        if mass >= top_p:
            break
        nucleus.append(token)
        mass += weights[token]
    wanted, at = draw.random() * mass, 0.0
    for token in nucleus:
        at += weights[token]
        if at > wanted:
            return token
    return nucleus[-1]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(-40, 40), min_size=6, max_size=6, unique=True), min_size=1, max_size=4),
    st.sampled_from([0.2, 0.7, 2.0]),
    st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    st.integers(0, 99),
)
def test_tokens_are_drawn_from_the_nucleus(rows, temperature: float, top_p: float, seed: int) -> None:
    logits = torch.tensor(rows) / 10
    draws = [None if place == 0 else random.Random(f"{seed}{place}") for place in range(len(rows))]
    found = chosen(logits, draws, temperature, top_p).tolist()
    for place, (row, token) in enumerate(zip(logits.tolist(), found, strict=True)):
        if place == 0:
            assert token == row.index(max(row))
        else:
            assert token == slow_choice(row, random.Random(f"{seed}{place}"), temperature, top_p)


def test_a_nucleus_beyond_the_head_of_the_vocabulary() -> None:
    logits = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0)) / 10
    found = [int(chosen(logits, [random.Random(n)], 1.0, 0.99)) for n in range(40)]
    assert found == [slow_choice(logits[0].tolist(), random.Random(n), 1.0, 0.99) for n in range(40)]
    assert len(set(found)) > 30


def slow_answer(lm, text: str, draw: random.Random | None, probe: ClosedBookProbe) -> str:
    """The whole prompt read again for every token."""
    ids = prompt_template(lm.tokenizer, instruction="answer").alone(text)
    new: list[int] = []
    with torch.no_grad():
        for _ in range(probe.new_tokens):
            logits = lm.model(torch.tensor([ids + new])).logits[0, -1].float()
            greedy = int(logits.argmax())
            new.append(greedy if draw is None else slow_choice(logits.tolist(), draw, probe.temperature, probe.top_p))
            if new[-1] in end_ids(lm):
                break
    said = lm.tokenizer.decode(new, skip_special_tokens=True)
    return said.lstrip().split("\n")[0].strip()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_answers_equal_a_slow_reference(family: str) -> None:
    lm = random_lm(family)
    lm.model.generation_config.eos_token_id = list(range(0, 258, 4))  # answers end early, and leave their batch
    found = SMALL.run(lm, QUESTIONS[:5])
    assert list(found) == [q.id for q in QUESTIONS[:5]]
    for q in QUESTIONS[:5]:
        record = found[q.id]
        assert record.memory == Reader(lm, SMALL.new_tokens).recall(q.wordings[0]).text
        draws = [random.Random(f"headwater/probe/0/{q.id}/{n}") for n in range(3)]
        assert list(record.samples) == [slow_answer(lm, q.wordings[0], draw, SMALL) for draw in draws]
    assert len({said for record in found.values() for said in record.samples}) > 5


def test_layers_without_attention() -> None:
    lm = hw.load(model=family_model("lfm2"), tokenizer=byte_tokenizer())
    found = SMALL.run(lm, QUESTIONS[:2])
    for q in QUESTIONS[:2]:
        assert found[q.id].memory == slow_answer(lm, q.wordings[0], None, SMALL)


def test_several_wordings() -> None:
    lm = random_lm()
    probe = ClosedBookProbe(samples=3, wordings=3, new_tokens=5)
    found = probe.run(lm, QUESTIONS)["q1"]
    assert found.asked == QUESTIONS[1].wordings
    assert found.greedy == tuple(slow_answer(lm, text, None, probe) for text in found.asked)
    draws = [random.Random(f"headwater/probe/0/q1/{n}") for n in range(3)]
    asked = [found.asked[0], found.asked[1], found.asked[0]]
    assert found.samples == tuple(slow_answer(lm, *pair, probe) for pair in zip(asked, draws, strict=True))


def test_a_killed_probe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_lm()
    whole = SMALL.run(lm, QUESTIONS, tmp_path / "whole")

    def killed(done: int, total: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SMALL.run(lm, QUESTIONS, tmp_path / "half", killed)
    half = (tmp_path / "half" / "probe.jsonl").read_bytes()
    assert 0 < half.count(b"\n") < 7
    (tmp_path / "half" / "probe.jsonl").write_bytes(half + b'{"id": "q6", "as')
    assert SMALL.run(lm, QUESTIONS, tmp_path / "half") == whole
    assert SMALL.run(lm, QUESTIONS[:2], tmp_path / "half") == {q.id: whole[q.id] for q in QUESTIONS[:2]}
    monkeypatch.setattr(ClosedBookProbe, "_answers", lambda *_: pytest.fail("asked again"))
    assert SMALL.run(lm, QUESTIONS, tmp_path / "half") == whole


def test_a_foreign_probe_is_refused(tmp_path: Path) -> None:
    lm = random_lm()
    SMALL.run(lm, QUESTIONS[:1], tmp_path)
    with pytest.raises(InputError, match="holds a run with fingerprint="):
        SMALL.run(random_lm(seed=1), QUESTIONS[:1], tmp_path)
    with pytest.raises(InputError, match=r"with dtype='torch\.float32', not 'torch\.bfloat16'"):
        SMALL.run(random_lm(dtype=torch.bfloat16), QUESTIONS[:1], tmp_path)
    with pytest.raises(InputError, match="holds a run with samples=3, not 2"):
        ClosedBookProbe(samples=2, new_tokens=5).run(lm, QUESTIONS[:1], tmp_path)
    with pytest.raises(InputError, match=r"holds a run with instruction='', not 'Be short\.'"):
        ClosedBookProbe(samples=3, new_tokens=5, instruction="Be short.").run(lm, QUESTIONS[:1], tmp_path)
    other = ProbeQuestion("q0", "g0", ("Who??",), ("Ann",), "d")
    with pytest.raises(InputError, match="other words or answers"):
        SMALL.run(lm, [other], tmp_path)
    (tmp_path / "probe.jsonl").write_text("odd\n")
    with pytest.raises(FormatError, match="line 1"):
        SMALL.run(lm, QUESTIONS[:1], tmp_path)


def test_instructions() -> None:
    lm = random_lm()
    assert ClosedBookProbe().made_with(lm)["instruction"] == ""
    lm.tokenizer.chat_template = (
        "{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert "short phrase" in ClosedBookProbe().made_with(lm)["instruction"]
    assert ClosedBookProbe(instruction="").made_with(lm)["instruction"] == ""
    texts = []
    own = lm.model.forward
    lm.model.forward = lambda input_ids, **more: texts.append(input_ids[0].tolist()) or own(input_ids, **more)
    ClosedBookProbe(samples=0, new_tokens=1).run(lm, QUESTIONS[:1])
    said = lm.tokenizer.decode(texts[0])
    assert said.startswith("<user>Answer the following question with a short phrase")
    assert said.endswith("Query: Who?</user><assistant>")


@pytest.mark.parametrize(
    ("chat", "asked_shortly"),
    [
        ("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}", False),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", False),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '\\nAnswer:' }}", False),  # as the embedded model's
        ("{% for m in messages %}>{{ m['content'] }}{% endfor %}", True),  # one token marks the turn
        ("{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}", True),
    ],
)
def test_which_templates_mark_turns(chat: str, asked_shortly: bool) -> None:
    lm = random_lm()
    lm.tokenizer.chat_template = chat
    assert bool(ClosedBookProbe().made_with(lm)["instruction"]) is asked_shortly


@pytest.mark.parametrize("cut", [True, False])
def test_answers_that_are_cut_off_are_not_known(cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, probe = random_lm(), ClosedBookProbe(samples=0, new_tokens=3)
    monkeypatch.setattr(probe_module, "_over", lambda lm, new: len(new) == 3 and not cut)
    found = probe.run(lm, QUESTIONS)
    asked = [replace(q, answers=(found[q.id].memory,)) for q in QUESTIONS if tokens(found[q.id].memory)]
    assert len(asked) > 1
    again = probe.run(lm, asked)
    assert {(record.ended, record.label) for record in again.values()} == {(not cut, "unknown" if cut else "known")}


def test_models_that_think_are_refused() -> None:
    lm = random_lm()
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>"
    with pytest.raises(ModelError, match="thinks before it answers"):
        SMALL.run(lm, QUESTIONS[:1])


def test_bad_settings() -> None:
    for settings_, message in (
        ({"samples": -1}, "samples must be at least 0"),
        ({"wordings": 0}, "wordings must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"top_p": 1.5}, "top_p in"),
    ):
        with pytest.raises(InputError, match=message):
            ClosedBookProbe(**settings_)
    long = ProbeQuestion("q", "g", ("Who? " * 200,), (), "d")
    with pytest.raises(ContextOverflowError, match="shorten it"):
        SMALL.run(random_lm(), [long])
