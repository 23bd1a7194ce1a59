"""The recipe of the embedded model: what it trains on leaks nothing, and a packed prompt equals its questions alone."""

import random
import re
from types import SimpleNamespace

import pytest
import torch
from recipes.tiny import model as tiny
from recipes.tiny import text, train
from recipes.tiny.invent import FRAMES, FUNCTION_WORDS, Inventor, ask, blur
from recipes.tiny.measure import copying
from recipes.tiny.prompts import Card, Prompts
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from headwater.data import world
from headwater.prompt.prompt import ANSWER, RANK, prompt_template

WORDS = ["river", "garden", "candle", "window", "mountain", "stranger", "whisper", "lantern"]


class Letters:
    """A tokenizer with a token per character, so that tests need no training."""

    bos_token_id, eos_token_id = 1, 2

    def __init__(self):
        self.backend_tokenizer = self

    def encode(self, text, add_special_tokens=False):
        return SimpleNamespace(ids=[3 + ord(c) % 250 for c in text])


@pytest.fixture(scope="module")
def prompts():
    return Prompts(Letters(), Inventor(WORDS))


def grams(words, n=13):
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def training_texts(prompts, count, seed=0):
    """Documents, questions and targets of training packs, as the text that is tokenised."""
    seen = []
    plain = prompts.encode

    def spy(piece):
        seen.append(piece)
        return plain(piece)

    prompts.encode = spy
    try:
        draw = random.Random(seed)
        for turn in range(count):
            task, edited = draw.choice(("state", "quote", "read")), (None, 0.05, 0.0)[turn % 3]
            prompts.documents(draw, draw.randint(1, 12), 8, task, edited)
            prompts.closed_book(draw, 8)
            prompts.noise(draw, draw.randint(1, 8), 8)
            prompts.conflict(draw, draw.randint(1, 3), 0.5)
    finally:
        del prompts.encode
    return seen


def test_no_training_text_names_an_unseen_country(prompts):
    for piece in training_texts(prompts, 400):
        assert not text.unseen().search(piece), piece


def test_held_out_documents_share_no_thirteen_words_with_training(prompts):
    def words(piece):
        return re.findall(r"\w+", piece.lower())

    held_out = set()
    for split in ("held_out", "development"):
        for doc in world.documents(split):
            held_out |= grams(words(f"{doc.title}\n{doc.text}"))
    assert len(held_out) > 700
    trained = set()
    for piece in training_texts(prompts, 800, seed=1):
        trained |= grams(words(piece))
    assert len(trained) > 5_000
    assert not held_out & trained, next(iter(held_out & trained))


def test_the_wording_kept_for_testing_is_never_asked():
    draw = random.Random(0)
    for relation in world.RELATIONS.values():
        kept = relation.questions[-1].format(c="Xania").lower()
        assert kept not in {ask(draw, relation.name, "Xania").lower() for _ in range(300)}


def test_the_prompt_is_the_one_headwater_ranks_and_reads_with():
    tokenizer = AutoTokenizer.from_pretrained
    from headwater.model import lm

    folder = lm.__file__.replace("lm.py", "tiny")
    made = Prompts(tokenizer(folder), Inventor(WORDS))
    docs = world.documents("development")[:3]
    cards = [Card(d.title, tuple((r, world.facts(d.title)[r]) for r in d.metadata["relations"])) for d in docs]
    for ours, theirs in ((text.FIND, RANK), (text.ANSWER, ANSWER)):
        template = prompt_template(made.tokenizer, instruction=theirs)
        tail, learned = made.tail("What is the capital of Fiji?", "Suva")
        assert ours == theirs
        wanted = [*template.prefix(docs).ids, *template.tail("What is the capital of Fiji?")]
        assert [*made.prefix(cards, ours), *tail[:-learned]] == wanted


def test_a_packed_prompt_equals_its_questions_asked_alone(prompts):
    draw = random.Random(3)
    packs = [prompts.documents(draw, 2, 2), prompts.documents(draw, 4, 3, "state"), prompts.closed_book(draw, 2)]
    model = tiny.build(tiny.Shape(layers=2, mlp=96), 256, 0)
    model.set_attn_implementation(tiny.TRAINING_ATTENTION)
    packed, *_ = tiny.loss_and_hits(model, tiny.collate(packs))
    model.set_attn_implementation("eager")
    total, count = 0.0, 0
    for pack in packs:
        for tail, learned in zip(pack.tails, pack.answers, strict=True):
            ids = torch.tensor([pack.prefix + tail])
            logits = model(ids).logits[0, -learned - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, -learned:], reduction="sum").item()
            count += learned
    assert packed.item() == pytest.approx(total / count, abs=1e-4)


def test_the_start_looks_back_and_matches_two_tokens():
    first, second = 100, 101  # the only pair: after it comes the answer; each of the two also stands with another
    rows = []
    for seed in range(8):
        model = tiny.build(tiny.Shape(), 512, seed)
        model.set_attn_implementation("eager")
        ids = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:24] + 110
        ids[4], ids[5] = first, second
        ids[10], ids[14], ids[23] = first, second, second
        ids[22] = first
        with torch.no_grad():
            maps = [layer[0] for layer in model(input_ids=ids[None], output_attentions=True).attentions[:2]]
        places = torch.arange(8, 24)
        for head, (back, width) in enumerate(tiny.LOOK_BACK):
            if not width:
                assert (maps[0][head, places].argmax(-1) == places - back).all()
        rows.append(maps[1][0, 23])
    mean = torch.stack(rows).mean(0)  # codes are random: now and then another token has one that is alike
    assert mean[6] > 2 * mean[15] > 2 * mean[12]  # after the pair, after the second token alone, elsewhere
    assert sum(int(row.argmax()) == 6 for row in rows) >= 3  # by chance: one in three


def test_the_start_copies_before_any_training():
    shares = copying(tiny.build(tiny.Shape(), 4096, 0), lengths=(13, 37), rows=8)
    assert min(shares.values()) > 0.15


def test_a_start_without_room_for_its_heads_is_refused():
    with pytest.raises(ValueError, match="hidden size of 256"):
        tiny.build(tiny.Shape(hidden=128), 64, 0)


def decoded(ids):
    return "".join(chr(token - 3) if token > 2 else "|" for token in ids)


def test_noise_is_answered_from_memory_only(prompts):
    draw = random.Random(4)
    for _ in range(50):
        pack = prompts.noise(draw, draw.randint(1, 8), 10)
        shown = decoded(pack.prefix)
        assert pack.tails
        for tail, learned in zip(pack.tails, pack.answers, strict=True):
            answer = decoded(tail[-learned:-1]).strip()
            owners = [
                (name, relation)
                for name, facts in prompts.known.items()
                for relation, value in facts.items()
                if decoded(prompts.encode(value)) == answer and decoded(prompts.encode(name)) in decoded(tail)
            ]
            assert owners
            statements = [world.RELATIONS[relation].statement.format(c=name) for name, relation in owners]
            assert any(decoded(prompts.encode(f"{s} ")) not in shown for s in statements)


def test_the_second_leg_draws_every_kind(prompts):
    kinds = {train.remembering_leg(random.Random(seed), prompts, 0, 100, 256)[0] for seed in range(60)}
    assert {"copy", "closed", "noise", "known", "read"} <= kinds
    again = [train.remembering_leg(random.Random(7), prompts, 0, 100, 256)[1] for _ in range(2)]
    assert torch.equal(again[0].ids, again[1].ids)


def test_the_third_leg_draws_every_kind_and_long_lists(prompts):
    drawn = [train.settling_leg(random.Random(seed), prompts, 0, 100, 256) for seed in range(80)]
    assert {"copy", "closed", "noise", "known", "conflict", "read"} <= {kind for kind, _ in drawn}
    second = [train.remembering_leg(random.Random(seed), prompts, 0, 100, 256) for seed in range(80)]
    longest = [max(batch.ids.shape[1] for kind, batch in rows if kind == "read") for rows in (second, drawn)]
    assert longest[1] > 1.5 * longest[0]


def test_names_like_real_ones_are_none(prompts):
    draw = random.Random(3)
    for _ in range(300):
        name = prompts.inventor.like_real(draw)
        assert name not in prompts.known
        assert not text.unseen().search(name)
    assert prompts.inventor.names(random.Random(1), 4) == prompts.inventor.names(random.Random(1), 4, 0.0)


def test_noise_asks_first_for_what_is_stated_of_others(prompts):
    draw = random.Random(5)
    for _ in range(30):
        pack = prompts.noise(draw, 4, 6)
        first = [decoded(tail[-n:]) for tail, n in zip(pack.tails, pack.answers, strict=True)][:3]
        assert len(set(first)) == 1


def test_questions_never_use_the_wording_kept_for_measuring():
    draw = random.Random(0)
    for name, relation in world.RELATIONS.items():
        kept = relation.questions[-1].format(c="Xania").lower()
        assert all(ask(draw, name, "Xania").lower() != kept for _ in range(2000))
        frames = {frame.replace("{n}", "something") for frame in FRAMES}
        for noun in {relation.noun, relation.label, relation.label.lower()}:
            assert relation.questions[-1].replace(noun, "something") not in frames


def test_a_blurred_question_keeps_the_name_and_the_key_words_in_order():
    draw = random.Random(0)
    for relation in world.RELATIONS.values():
        kept = relation.questions[-1].format(c="Xania").lower()
        for _ in range(100):
            text = blur(draw, relation.questions[0], ["apple", "tree"])
            assert text.count("{c}") == 1
            words = iter(text.rstrip("?.").split())
            key = [
                w for w in relation.questions[0].rstrip("?").split() if w != "{c}" and not FUNCTION_WORDS.fullmatch(w)
            ]
            assert all(word in words for word in key)
            asked = ask(draw, relation.name, "Xania", 1.0, ["apple", "tree"])
            assert asked.lower() != kept
            assert asked.count("Xania") == 1
    assert ask(random.Random(3), "capital", "Xania", 0.0, ["apple"]) == ask(random.Random(3), "capital", "Xania")


def test_the_fourth_leg_asks_about_the_first_documents(prompts):
    def asked(early):
        draw = random.Random(2)
        packs = [prompts.documents(draw, 12, 2, "read", None, 0.1, early) for _ in range(20)]
        first = [decoded(pack.prefix).split("[2]")[0] for pack in packs]
        answers = [decoded(pack.tails[0][-pack.answers[0] : -1]).strip() for pack in packs]
        return sum(answer in text for answer, text in zip(answers, first, strict=True))

    assert asked(1.0) == 20
    assert asked(0.0) < 12


def test_blocks_are_learned_only_where_they_repeat():
    batch = tiny.periodic([torch.arange(10, 14), torch.arange(20, 25)], 12)
    for row, period in ((0, 4), (1, 5)):
        learned = batch.labels[row] != tiny.IGNORE
        assert learned.tolist() == [period <= place < 11 for place in range(12)]
        assert (batch.labels[row, period:-1] == batch.ids[row, period + 1 :]).all()


def test_block_lengths_kept_for_measuring_are_never_trained(monkeypatch):
    lengths = []
    monkeypatch.setattr(train, "periodic", lambda blocks, width: lengths.extend(map(len, blocks)))
    for seed in range(100):
        train.copying(random.Random(seed), 4096)
    assert not set(lengths) & set(train.NEVER_COPIED)
    assert max(lengths) > 80


def test_a_few_steps_lower_the_loss_and_resuming_continues_them(tmp_path):
    def batches():
        draw = random.Random(0)
        return [train.copying(draw, 64) for _ in range(6)]

    def run(first, last, state=None):
        trainer = tiny.Trainer(tiny.build(tiny.Shape(layers=2, mlp=96), 64, 0), 3e-3)
        if state:
            trainer.restore(state)
        losses = [trainer.step(data, 1.0) for data in batches()[first:last]]
        return losses, trainer

    torch.manual_seed(0)
    whole, _ = run(0, 6)
    assert whole[-1] < whole[0]
    _, half = run(0, 3)
    save_file(half.state(), tmp_path / train.RESUME)
    resumed, _ = run(3, 6, load_file(tmp_path / train.RESUME))
    assert resumed == pytest.approx(whole[3:], abs=1e-3)
    half.model.set_attn_implementation("eager")
    assert set(copying(half.model, lengths=(7,), rows=2)) == {7}


def test_the_schedule_of_the_learning_rate():
    assert train.factor(0, 1000) == pytest.approx(0.01)
    assert train.factor(500, 1000) == pytest.approx(0.5)
    assert train.factor(999, 1000) == pytest.approx(0.001)
    assert train.factor(400, 1000, 0.5) == 1
    assert train.factor(750, 1000, 0.5) == pytest.approx(0.5)
