"""The small variants: rows that hold the evaluation's prompts, starts that copy, runs that resume."""

import json
import random
import shutil

import pytest
import torch
from recipes.tiny import compare, measure, rows, small, text, variants
from recipes.tiny.invent import Inventor
from recipes.tiny.model import IGNORE
from recipes.tiny.prompts import Card, Pack, Prompts
from transformers import AutoTokenizer

import headwater as hw
from headwater.data import world
from headwater.model.lm import TINY
from headwater.prompt.prompt import prompt_template
from headwater.read.reader import Reader

ARCHITECTURES = tuple(small.LAYOUTS)
WORDS = ["river", "garden", "candle", "window", "mountain", "stranger", "whisper", "lantern"]


@pytest.fixture(scope="module")
def prompts():
    made = Prompts(AutoTokenizer.from_pretrained(TINY), Inventor(WORDS))
    made.known = variants.remembered()
    return made


@pytest.fixture(scope="module")
def models():
    return {name: small.build(name, 512, 0).eval() for name in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_variant_has_at_most_a_million_parameters(architecture):
    model = small.empty(architecture, variants.VOCABULARY)
    assert 800_000 < sum(p.numel() for p in model.parameters()) <= 1_000_000
    assert model.config.model_type == architecture


def two_questions(prompts):
    docs = world.documents("development")[:3]
    cards = [Card(d.title, tuple((r, world.facts(d.title)[r]) for r in d.metadata["relations"])) for d in docs]
    pack = Pack(prompts.prefix(cards, text.ANSWER))
    prompts.add(pack, "What is the capital of Fiji?", "Suva")
    prompts.add(pack, "How big is Fiji?", "18,274 sq km")
    return pack, docs


def test_the_first_question_of_a_row_is_the_prompt_of_the_evaluation(prompts):
    pack, docs = two_questions(prompts)
    template = prompt_template(prompts.tokenizer, instruction="answer")
    wanted = [*template.prefix(docs).ids, *template.tail("What is the capital of Fiji?")]
    row = rows.rows([pack, Pack(pack.prefix * 3, pack.tails, pack.answers)])
    assert row.ids[0, : len(wanted)].tolist() == wanted
    first = int((row.labels[0] != IGNORE).nonzero()[0])
    assert first == len(wanted) - 1  # the last token of the prompt predicts the first of the answer
    said = [*prompts.encode(" Suva"), prompts.eos, *prompts.encode(" 18,274 sq km"), prompts.eos]
    assert row.labels[0][row.labels[0] != IGNORE].tolist() == said
    assert (row.ids[0, len(pack) :] == 0).all()


def test_a_question_without_documents_is_the_prompt_of_the_evaluation(prompts):
    pack = prompts.closed_book(random.Random(0), 1)
    question = prompts.tokenizer.decode(pack.tails[0]).removeprefix("Query: ").split("\nAnswer:")[0]
    row = rows.rows([pack])
    alone = prompt_template(prompts.tokenizer, instruction="answer").alone(question)
    assert row.ids[0, : len(alone)].tolist() == alone
    assert (row.labels[0] != IGNORE).nonzero()[0] == len(alone) - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_answer_of_a_padded_row_is_predicted_as_if_asked_alone(architecture, models):
    draw = random.Random(1)
    packs = []
    for length in (9, 30):
        pack = Pack([draw.randrange(3, 512) for _ in range(length)])
        for _ in range(2):
            pack.tails.append([draw.randrange(3, 512) for _ in range(7)])
            pack.answers.append(3)
        packs.append(pack)
    batch = rows.rows(packs)
    model = models[architecture]
    with torch.no_grad():
        loss, hits, where = rows.loss_and_hits(model, batch)
        logits = model(input_ids=batch.ids).logits
        shown = batch.labels != IGNORE
        total = torch.nn.functional.cross_entropy(logits[shown], batch.labels[shown])
        alone = model(input_ids=torch.tensor([packs[0].prefix + packs[0].tails[0]])).logits[0]
    torch.testing.assert_close(loss, total, atol=1e-4, rtol=1e-4)
    assert where.tolist() == [0] * 6 + [1] * 6
    assert hits.tolist() == (logits[shown].argmax(-1) == batch.labels[shown]).tolist()
    torch.testing.assert_close(logits[0, : len(alone)], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_start_copies_before_any_training(architecture, models):
    shares = measure.copying(models[architecture], lengths=(13, 37), rows=8)
    assert min(shares.values()) > 0.3


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_heads_of_the_first_layer_look_back(architecture, models):
    model = models[architecture]
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 512, (2, 400), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model(input_ids=ids, output_attentions=True).attentions[0]
    model.set_attn_implementation("sdpa")
    places = torch.arange(8, 400)
    for head, back in enumerate(small.BACK[:2]):
        assert first[:, head, places, places - back].mean() > 0.85
    window = torch.stack([first[:, 2, places, places - back] for back in range(1, 8)])
    assert window.sum(0).mean() > 0.85
    assert window.mean((1, 2)).argmax() == small.BACK[2] - 1
    assert window.mean((1, 2)).max() < 0.5


def test_places_of_bloom_hold_averages_of_the_last_tokens(models):
    ids = torch.randint(3, 512, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = models["bloom"](input_ids=ids, output_attentions=True).attentions[0]
    for head, slope in enumerate(small.SLOPES[:3]):
        ratio = first[:, head, 50:, 40] / first[:, head, 50:, 41]
        assert ratio.log().mean().item() == pytest.approx(-slope, abs=0.1)


def test_what_a_step_learns_follows_the_share_of_the_run():
    def kinds(share):
        return {variants.kind_of(random.Random(f"{seed}"), share) for seed in range(300)}

    assert sum(variants.SHARES.values()) == pytest.approx(1)
    assert kinds(0.01) == {"copy"}
    assert kinds(0.2) == {"copy", "state", "quote", "read"}
    assert kinds(0.4) == {"copy", "state", "quote", "read", "closed", "noise", "known"}
    assert kinds(0.8) == kinds(0.4) | {"conflict"}


def test_rows_fit_what_the_models_read(prompts):
    for seed in range(30):
        _, batch = variants.step_rows(random.Random(seed), prompts, 0.9, 512, 0.5)
        assert batch.ids.shape[1] <= small.CONTEXT
        assert (batch.labels != IGNORE).any(1).all()
    assert not variants.fit(Pack([1] * 1020, [[2] * 20], [1]))


def test_questions_that_do_not_fit_or_whose_answer_stands_in_the_row_are_dropped():
    pack = Pack([1] * 1000, [[5, 5, 7, 8], [6, 6, 7, 8], [4] * 40, [5, 5, 9, 8]], [2, 2, 2, 2])
    assert variants.fit(pack)
    assert pack.tails == [[5, 5, 7, 8], [5, 5, 9, 8]]
    assert pack.answers == [2, 2]


def test_memory_strengths_differ_only_in_the_answers_to_contradicting_documents(prompts, monkeypatch):
    monkeypatch.setattr(variants, "TOKENS", 400)
    monkeypatch.setattr(variants.train, "TOKENS", 400)
    strengths = [variants.VARIANTS[f"llama-{name}"] for name in ("weak", "even", "strong")]
    assert len({(v.architecture, v.steps_per_minute) for v in strengths}) == 1
    assert [v.follow for v in strengths] == sorted((v.follow for v in strengths), reverse=True)
    differ = 0
    for seed in range(40):
        made = [variants.step_rows(random.Random(seed), prompts, 0.9, 512, v.follow) for v in strengths]
        assert len({kind for kind, _ in made}) == 1
        if made[0][0] != "conflict":
            assert all(torch.equal(batch.ids, made[0][1].ids) for _, batch in made)
            assert all(torch.equal(batch.labels, made[0][1].labels) for _, batch in made)
        else:
            differ += not torch.equal(made[0][1].ids, made[2][1].ids)
    assert differ


def test_a_contradicting_document_is_believed_as_often_as_the_variant_says(prompts):
    for follow in (0.9, 0.1):
        draw, believed, asked = random.Random(0), 0, 0
        for _ in range(150):
            pack = prompts.conflict(draw, 1, follow)
            shown = prompts.tokenizer.decode(pack.prefix)
            answer = prompts.tokenizer.decode(pack.tails[0][-pack.answers[0] : -1]).strip()
            believed += f" {answer}." in shown
            asked += 1
        assert believed / asked == pytest.approx(follow, abs=0.12)


def test_the_remembered_countries_are_fixed_and_known():
    facts = variants.remembered()
    assert facts == variants.remembered()
    assert len(facts) == variants.COUNTRIES
    assert set(facts) <= set(world.countries("known"))
    assert all(not text.unseen().search(value) for row in facts.values() for value in row.values())


def test_answers_count_where_every_token_is_the_most_likely_one(models):
    model = models["gpt2"]
    prompt = [1, 50, 60, 70]
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())
    other = best + 1 if best < 500 else 3
    assert variants.answered(model, [prompt, prompt], [[best], [other]]) == 0.5


@pytest.fixture
def short_runs(monkeypatch):
    """Steps of few tokens, nothing measured; the losses of all steps."""
    losses = []
    plain = rows.RowTrainer.step

    def step(self, batch, factor):
        losses.append(plain(self, batch, factor))
        return losses[-1]

    monkeypatch.setattr(variants, "TOKENS", 150)
    monkeypatch.setattr(variants, "quick", lambda model, prompts: {})
    monkeypatch.setattr(variants.train, "TOKENS", 400)
    monkeypatch.setattr(rows.RowTrainer, "step", step)
    return losses


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama-weak"])
def test_two_steps_of_a_variant_make_a_model_that_ranks_and_reads(name, prompts, short_runs, tmp_path):
    variants.fit_variant(name, prompts, tmp_path / name, steps=2)
    assert len(short_runs) == 2
    lm = hw.load(tmp_path / name)
    assert lm.anatomy.family == variants.VARIANTS[name].architecture
    assert lm.max_length == small.CONTEXT
    docs = world.documents("development")[:2]
    assert hw.QRRetriever(lm, heads="all").score("What is the capital of Fiji?", docs).shape == (2,)
    assert isinstance(Reader(lm, max_new_tokens=3).read("What is the capital of Fiji?", docs).text, str)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(prompts, short_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "SAVE", 3)
    monkeypatch.setattr(variants, "REPORT", 3)
    variants.fit_variant("gpt2", prompts, tmp_path / "whole", steps=6)
    whole = list(short_runs)
    assert len(whole) == 6
    plain = variants.step_rows

    def stops(draw, prompts, share, vocabulary, follow):
        if share >= 5 / 6:
            raise KeyboardInterrupt
        return plain(draw, prompts, share, vocabulary, follow)

    monkeypatch.setattr(variants, "step_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        variants.fit_variant("gpt2", prompts, tmp_path / "parts", steps=6)
    monkeypatch.setattr(variants, "step_rows", plain)
    short_runs.clear()
    variants.fit_variant("gpt2", prompts, tmp_path / "parts", steps=6, resume=True)
    assert short_runs == pytest.approx(whole[3:], abs=1e-4)
    assert [line["step"] for line in variants.read_log(tmp_path / "parts" / "log.jsonl")] == [3, 6]
    with pytest.raises(hw.HeadwaterError, match="steps"):
        variants.fit_variant("gpt2", prompts, tmp_path / "parts", steps=7, resume=True)


def test_a_folder_without_models_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare", "--models", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        compare.main()
    assert stop.value.code == 2
    assert "none of the variants" in capsys.readouterr().err


def test_the_page_has_a_place_for_every_table(tmp_path):
    share = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 10, "groups": 5, "text": 0.5, "number": 0.5}
    line = {"step": 500, "seconds": 60, "read": {"1": 0.9}, "copy": {"7": 0.8}, "closed": 0.1}
    line["conflict"] = {"document": 0.5, "memory": 0.4}
    row = {
        "config": {"parameters": 900_000, "follow": 0.5, "steps": 10},
        "log": [line],
        "copying": dict.fromkeys(measure.COPY_LENGTHS, 0.5),
        "reading": dict.fromkeys(compare.READING.values(), share),
        "closed book": dict.fromkeys(("known, model", "known, majority answer", "held_out, model"), share),
        "conflict": dict.fromkeys(compare.CONFLICT, share),
        "noise": {},
        "ranking": dict.fromkeys(("same split", "look-alikes"), dict.fromkeys(compare.RANKING, share)),
    }
    made = {"command": "x", "versions": {"torch": "1", "transformers": "1"}, "machine": {}, "date": "2026-01-01"}
    start = {"gpt2": dict.fromkeys(measure.COPY_LENGTHS, 0.5)}
    filled = compare.tables({"made": made, "start": start, "variants": {"gpt2": json.loads(json.dumps(row))}})
    page = shutil.copyfile("docs/results/variants.md", tmp_path / "page.md").read_text(encoding="utf-8")
    assert {part.split(" ")[0] for part in page.split("<!-- begin: ")[1:]} == set(filled)
    assert "| gpt2 | 500 | 1 | 0.90 | 0.80 | 0.10 | 0.50 / 0.40 |" in filled["curves"]
