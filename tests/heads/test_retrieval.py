"""The planted copier gets the whole score, every other head none; what is counted, accepted, refused and reported."""

import json

import numpy as np
import pytest
import torch

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, family_model
from headwater.data.needle import Needle, NeedleCase, built_in_haystack, built_in_needles, needle_cases
from headwater.errors import ContextOverflowError, HeadSetError, InputError, NoAcceptedRunsError
from headwater.heads.copy_runs import decode_run, forced_run
from headwater.heads.retrieval import _enough, _taking_turns
from headwater.model.greedy import greedy_line
from headwater.prompt.needle import needle_prompt
from models import byte_tokenizer, random_lm
from planted_copier import COPIER, NEEDLES, PARAGRAPHS, copier_lm


def cases(n: int = 3, lengths=(260,), depths=(0.0, 0.5, 1.0)):
    return needle_cases(NEEDLES[:n], PARAGRAPHS, lengths, depths)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("run", ["decode", "forced"])
@pytest.mark.parametrize("template", ["auto", "book"])
def test_the_planted_copier_is_found(family, run, template):
    detector = hw.RetrievalHeads(run=run, template=template, max_new_tokens=6)
    scores = detector.score(copier_lm(family), cases())
    assert scores.scores[COPIER] >= 3 / 4
    rest = scores.scores.copy()
    rest[COPIER] = 0
    assert not rest.any()
    assert scores.samples.shape == (9, 2, 4)
    assert sorted(set(scores.groups)) == ["needle 0", "needle 1", "needle 2"]
    assert np.allclose(scores.samples.mean(0), scores.scores)
    provenance = scores.provenance
    assert provenance["examples"] == 9
    assert provenance["cases"]["rejected"] == []
    assert provenance["frequency"][COPIER[0]][COPIER[1]] == 1
    assert provenance["weight"][COPIER[0]][COPIER[1]] > 0.9
    assert set(provenance["per_needle"]) == {"needle 0", "needle 1", "needle 2"}
    assert detector.find(copier_lm(family), cases()).heads == [COPIER]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_forced_and_decoded_runs_agree_on_the_planted_model(family):
    lm = copier_lm(family)
    decoded = hw.RetrievalHeads(max_new_tokens=6).score(lm, cases())
    forced = hw.RetrievalHeads(run="forced").score(lm, cases())
    assert np.array_equal(decoded.scores, forced.scores)


def test_without_the_copier_no_run_is_accepted():
    lm = copier_lm()
    with (
        hw.ablated(lm, [COPIER]),
        pytest.raises(NoAcceptedRunsError, match="answered none of 9 needle cases") as error,
    ):
        hw.RetrievalHeads(max_new_tokens=6).score(lm, cases())
    assert sum(error.value.reasons.values()) == 9
    with hw.ablated(lm, [(1, 1), (0, 3)]):
        assert hw.RetrievalHeads(max_new_tokens=6).score(lm, cases()).scores[COPIER] >= 3 / 4


STEPS = 12


def slow_places(lm, prompt):
    """Where every head looks most at each step of the answer, from eager maps of whole sequences."""
    new, response = greedy_line(lm, prompt.ids, STEPS)
    stock = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    places = []
    for step in range(len(new)):
        with torch.no_grad():
            seen = torch.tensor([prompt.ids + new[:step]])
            maps = lm.model(input_ids=seen, output_attentions=True).attentions
        places.append([int(maps[layer][0, head, -1].argmax()) for layer, head in lm.anatomy.all_heads])
    lm.model.set_attn_implementation(stock)
    return new, places, response


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_hits_are_counted_as_the_definition_says(family):
    """A random model says a byte again and again that the needle holds several times, so that there are hits."""
    lm = random_lm(family)
    text = "It is not here. " * 10
    first = needle_prompt(lm.tokenizer, NeedleCase(Needle("x is y.", "what?", "y"), [text], 300, 0.5))
    said = {c for c in greedy_line(lm, first.ids, STEPS)[1] if c.isascii() and c.isprintable()}
    answer = "".join(sorted(said | set("ab12"))) * 4
    prompt = needle_prompt(lm.tokenizer, NeedleCase(Needle(f"It is {answer}.", "what?", answer), [text], 340, 0.5))
    new, places, response = slow_places(lm, prompt)
    hits = 0
    for start, end in (prompt.answer, prompt.needle, (0, len(prompt.ids))):
        run = decode_run(lm, prompt, (start, end), STEPS)
        assert run.response == response
        for head in range(len(lm.anatomy.all_heads)):
            hit = [
                place
                for place, token in zip([step[head] for step in places], new, strict=True)
                if start <= place < end and prompt.ids[place] == token
            ]
            hits += len(hit)
            assert float(run.once[head]) == pytest.approx(len(set(hit)) / (end - start))
            assert float(run.count[head]) == pytest.approx(len(hit) / (end - start))
        assert (run.once <= 1).all()
        assert (run.once <= run.count).all()
    assert hits


@pytest.mark.parametrize("name", [*FAMILIES, "lfm2", "jamba", *(n for n in OWN_ATTENTION if n != "falcon-alibi")])
def test_runs_of_every_family(name):
    """No family answers, but both kinds of run give one number per head."""
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    prompt = needle_prompt(lm.tokenizer, NeedleCase(built_in_needles()[0], built_in_haystack(), 262, 0.5))
    for run in (decode_run(lm, prompt, prompt.answer, 3), forced_run(lm, prompt, prompt.answer)):
        assert run.once.shape == (len(lm.anatomy.all_heads),)
        assert torch.isfinite(run.once).all()


def accept_all(monkeypatch):
    monkeypatch.setattr("headwater.heads.retrieval.rouge1_recall", lambda answer, response: 1.0)


def test_heads_behind_a_window_get_no_score(monkeypatch):
    """Windows of 16 tokens: at depth 0 the answer is out of sight."""
    accept_all(monkeypatch)
    lm = hw.load(model=family_model("cohere2"), tokenizer=byte_tokenizer())
    local = [kind == "sliding_attention" for kind in lm.model.config.layer_types]
    assert any(local)
    assert not all(local)
    detector = hw.RetrievalHeads(max_new_tokens=2)
    scores = detector.score(lm, needle_cases(built_in_needles()[:2], built_in_haystack(), (262,), (0.0, 0.5)))
    assert np.isnan(scores.scores).all(1).tolist() == local
    assert np.isnan(scores.samples[0]).all(1).tolist() == local
    assert np.isfinite(scores.scores[~np.array(local)]).all()


def test_switches_change_what_is_counted(monkeypatch):
    lm = copier_lm()
    whole = hw.RetrievalHeads(span="needle", max_new_tokens=6).score(lm, cases())
    assert 0.4 < whole.scores[COPIER] < 1  # the sentence is longer than what the model says of it
    assert hw.RetrievalHeads(repeat="count", max_new_tokens=6).score(lm, cases()).scores[COPIER] >= 3 / 4
    short = hw.RetrievalHeads(max_new_tokens=2, accept=0.4).score(lm, cases())
    assert short.scores[COPIER] == 0.5
    with pytest.raises(NoAcceptedRunsError):
        hw.RetrievalHeads(max_new_tokens=2, accept=0.5).score(lm, cases())


def test_rejected_runs_are_kept_and_not_averaged(monkeypatch):
    answers = {case.answer for case in cases(1)}
    monkeypatch.setattr(
        "headwater.heads.retrieval.rouge1_recall",
        lambda answer, response: float(answer in answers and "a0" in response),
    )
    scores = hw.RetrievalHeads(max_new_tokens=6).score(copier_lm(), cases())
    assert set(scores.groups) == {"needle 0"}
    rejected = scores.provenance["cases"]["rejected"]
    assert len(rejected) == 6
    assert all(run["reason"] == "did not give the answer" and run["response"] for run in rejected)
    assert scores.provenance["cases"]["accepted"] == {"needle 0": 3}
    assert scores.provenance["enough"] is False


def test_stopping_when_stable():
    lm = copier_lm()
    many = needle_cases(NEEDLES, PARAGRAPHS, (250, 255, 260, 265), (0.0, 0.2, 0.4, 0.6, 0.8))
    seen = []
    settings = {"max_new_tokens": 5, "run": "forced", "top_k": 1}
    stopped = hw.RetrievalHeads(**settings, stop_when_stable=True).score(lm, many, lambda *at: seen.append(at))
    assert stopped.provenance["examples"] == 40
    assert stopped.provenance["stable"] is True
    assert stopped.provenance["overlaps"] == [1.0, 1.0]
    assert seen[0] == (1, 100)
    assert len(seen) == 39
    whole = hw.RetrievalHeads(**settings).score(lm, many)
    assert whole.provenance["examples"] == 100
    assert whole.provenance["stable"] is True
    assert np.array_equal(stopped.samples, whole.samples[:40])


def test_needles_take_turns_and_enough_is_counted_by_needle():
    order = _taking_turns(cases(), seed=0)
    assert {case.id for case in order} == {case.id for case in cases()}
    for start in range(0, len(order), 3):
        assert len({case.name for case in order[start : start + 3]}) == 3
    assert [case.id for case in order] != [case.id for case in _taking_turns(cases(), seed=1)]
    assert not _enough(["a"] * 40)
    assert not _enough([*"abc"] * 20)
    assert _enough([*"abcd"] * 8)


def test_needles_are_laid_over_the_grid(tmp_path):
    lm = copier_lm()
    (tmp_path / "hay.txt").write_text("\n\n".join(PARAGRAPHS))
    detector = hw.RetrievalHeads(
        run="forced", lengths=(260, 280), depths=(0.0, 1.0), haystack=str(tmp_path / "hay.txt"), top_k=2
    )
    lines = [{"statement": n.statement, "question": n.question, "answer": n.answer} for n in NEEDLES[:2]]
    (tmp_path / "needles.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = detector.find(lm, detector.read_examples(tmp_path / "needles.jsonl"))
    assert found.heads[0] == COPIER
    assert found.provenance["cases"]["given"] == 8
    assert found.provenance["grid"] == {"lengths": [260, 280], "depths": [0.0, 1.0]}
    assert hw.HeadSet.load(found.save(tmp_path / "set.json")) == found


def test_the_built_in_grid():
    lm = copier_lm()
    made = hw.RetrievalHeads().cases(lm)
    assert len(made) == 6 * 8 * 5
    assert max(case.length for case in made) == 2048 - 250


def test_the_same_seed_gives_the_same_scores():
    lm = copier_lm()
    first, second = (hw.RetrievalHeads(run="forced").score(lm, cases()) for _ in range(2))
    assert np.array_equal(first.samples, second.samples)
    assert first.groups == second.groups
    assert first.provenance == second.provenance


def test_bad_input(monkeypatch):
    for wrong in (
        {"repeat": "twice"}, {"span": "haystack"}, {"run": "fast"}, {"accept": 1.0}, {"accept": -0.1},
        {"max_new_tokens": 0}, {"threshold": -1}, {"buffer": -1},
    ):  # fmt: skip
        with pytest.raises(InputError):
            hw.RetrievalHeads(**wrong)
    lm = copier_lm()
    with pytest.raises(InputError, match="no needle cases"):
        hw.RetrievalHeads().score(lm, [])
    for top_k in (0, 9):
        with pytest.raises(HeadSetError, match="between 1 and the 8"):
            hw.RetrievalHeads(top_k=top_k).find(lm, cases())
    with pytest.raises(HeadSetError, match=r"best score is 1.000, below 1.5"):
        hw.RetrievalHeads(threshold=1.5, run="forced").find(lm, cases())
    with pytest.raises(InputError, match="does not fit a case of 205 tokens"):
        hw.RetrievalHeads().score(lm, needle_cases(NEEDLES[:1], PARAGRAPHS, (205,)))
    long = [" ".join(PARAGRAPHS)] * 6
    with pytest.raises(ContextOverflowError, match=r"reads 2048"):
        hw.RetrievalHeads().score(lm, needle_cases(NEEDLES[:1], long, (2300,)))


def test_no_accepted_run_says_what_was_said():
    with pytest.raises(NoAcceptedRunsError, match="answered none of 6 needle cases") as error:
        hw.RetrievalHeads(depths=(0.5,), max_new_tokens=4).find(random_lm())
    assert sum(error.value.reasons.values()) == 6
    assert len(error.value.responses) <= 3
