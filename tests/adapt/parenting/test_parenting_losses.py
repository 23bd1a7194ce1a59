"""Items as token ids, padding, and the loss on targets, beside an obvious twin."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, family_model
from headwater.adapt.parenting.losses import PromptWriter, TrainingPrompt, answer_loss, batches, padded
from headwater.data.parenting.items import ParentingItem
from headwater.errors import ContextOverflowError, InputError
from headwater.prompt.closed_book import SHORT
from headwater.read.probe import ClosedBookProbe
from models import byte_tokenizer, random_lm
from parenting_items import made_items

PROMPTS = [TrainingPrompt(tuple(range(5, 5 + n)), start) for n, start in ((9, 7), (21, 3), (4, 2))]
CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}~{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def slow_loss(model, prompt):
    """One prompt alone, no padding, every target token by itself."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt.ids])).logits[0].double().log_softmax(-1)
    return -sum(logits[place - 1, prompt.ids[place]].item() for place in range(prompt.start, len(prompt.ids)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral", "opt", "phi3", "bloom", "mpt", "falcon"])
def test_the_loss_is_the_sum_over_target_tokens_whatever_the_padding(family):
    assert family in FAMILIES + OWN_ATTENTION
    model = family_model(family)
    expected = [slow_loss(model, prompt) for prompt in PROMPTS]
    for chosen in (PROMPTS, PROMPTS[:1], PROMPTS[1:]):
        loss, tokens = answer_loss(model, padded(chosen, pad=3))
        assert tokens == sum(prompt.targets for prompt in chosen)
        wanted = sum(value for value, prompt in zip(expected, PROMPTS, strict=True) if prompt in chosen)
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        assert loss.requires_grad


def test_batches_by_length_hold_the_same_examples():
    lm = random_lm(layers=1)
    whole = sum(answer_loss(lm, batch)[0].item() for batch in batches(lm, PROMPTS, 2))
    sorted_ones = list(batches(lm, PROMPTS, 2, by_length=True))
    assert [batch.ids.shape[1] for batch in sorted_ones] == [21, 4]
    assert sum(answer_loss(lm, batch)[0].item() for batch in sorted_ones) == pytest.approx(whole, rel=1e-5)


def test_what_is_marked_in_a_batch():
    batch = padded(PROMPTS, pad=3)
    assert batch.mask.sum(1).tolist() == [9, 21, 4]
    assert batch.asked.sum(1).tolist() == [7, 3, 2]
    assert (batch.labels != -100).sum(1).tolist() == [2, 18, 2]
    assert batch.targets == 22
    assert (batch.ids[0, 9:] == 3).all()
    with pytest.raises(InputError, match="no prompts"):
        padded([])


def test_items_are_written_in_the_prompts_of_reading():
    lm = hw.load("tiny")
    writer = PromptWriter(lm)

    def text(kind):
        prompt = writer.write(made_items(kind, 1)[0])
        assert prompt.prompt == tuple(writer.prompt(made_items(kind, 1)[0]))
        return [lm.tokenizer.decode(ids) for ids in (prompt.prompt, prompt.ids[prompt.start :])]

    asked, target = text("a")
    assert "[1] t" in asked
    assert asked.endswith("Query: What is x0?\nAnswer:")
    assert target == f" {made_items('a', 1)[0].target}<eos>"
    asked, target = text("c")
    assert "repeat the relevant one" in asked
    assert target.startswith(" [1] relevant\n[2] same topic\n[3] other topic\nx")
    asked, _ = text("empty")
    assert asked == "<bos>Query: What is x0?\nAnswer:"
    other = PromptWriter(lm, "base")
    assert other.fingerprint != writer.fingerprint


def test_a_chat_template_says_how_an_answer_ends_and_what_comes_before_it():
    lm = random_lm(layers=1)
    item = made_items("a", 1)[0]
    turn = lm.tokenizer.convert_tokens_to_ids("~")

    def target(template, ends):
        lm.tokenizer.chat_template = template
        lm.model.generation_config.eos_token_id = ends
        prompt = PromptWriter(lm).write(item)
        return lm.tokenizer.decode(prompt.ids[prompt.start :])

    both = [lm.tokenizer.eos_token_id, turn]
    assert target(CHAT, both) == f" {item.target}~", "a gap behind ], and the end of a turn"
    assert target(CHAT.replace("[assistant]", "[assistant]\n"), both) == f"{item.target}~", "no gap on a new line"
    assert target(CHAT, lm.tokenizer.eos_token_id) == f" {item.target}<eos>", "a mark that ends no text is none"


def test_questions_alone_are_asked_as_the_probe_asked_them():
    lm = random_lm(layers=1)
    item = made_items("empty", 1)[0]
    plain, told = PromptWriter(lm), PromptWriter(lm, instruction="Be brief.")
    assert "Be brief." in lm.tokenizer.decode(told.prompt(item))
    assert plain.closed_book != told.closed_book
    assert told.closed_book == ClosedBookProbe(instruction="Be brief.").made_with(lm)["prompt"]
    assert told.fingerprint == plain.fingerprint, "of prompts with documents"
    lm.tokenizer.chat_template = CHAT
    assert SHORT in lm.tokenizer.decode(PromptWriter(lm).prompt(item))


def test_items_that_cannot_be_learned_are_refused():
    writer = PromptWriter(random_lm(layers=1))
    blank = ParentingItem("1#0/a", "g", "a", "What?", made_items("a", 1)[0].documents, " ", ())
    with pytest.raises(InputError, match="blank target"):
        writer.write(blank)
    long = ParentingItem("1#0/empty", "g", "empty", "What?" * 200, (), "y", ())
    with pytest.raises(ContextOverflowError, match="shorter documents"):
        writer.write(long)
    assert byte_tokenizer().eos_token_id == writer.write(made_items("a", 1)[0]).ids[-1]
