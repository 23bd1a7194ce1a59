"""What is measured while the model trains, on development countries only: copying, reading and ranking by heads."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from headwater.data import world
from recipes.tiny.model import TRAINING_ATTENTION, collate, loss_and_hits
from recipes.tiny.prompts import Pack, Prompts
from recipes.tiny.text import ANSWER, FIND, SPECIAL

COPY_LENGTHS = (7, 13, 21, 29, 37, 60, 80)  # none of them is trained


@torch.no_grad()
def copying(model: Any, lengths: tuple[int, ...] = COPY_LENGTHS, rows: int = 16, seed: int = 9) -> dict[int, float]:
    """Share of tokens predicted right in the second copy of a random block (its first token cannot be known)."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for length in lengths:
        block = torch.randint(len(SPECIAL), model.config.vocab_size, (rows, length), generator=generator)
        logits = model(input_ids=torch.cat([block, block], 1)).logits[:, length:-1]
        out[length] = (logits.argmax(-1) == block[:, 1:]).float().mean().item()
    return out


def _prefix(prompts: Prompts, documents: Any, instruction: str | None) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of the documents in headwater's prompt, and the token span of each."""
    ids, spans = prompts.prefix([], None), []
    for index, document in enumerate(documents):
        piece = prompts.encode(f"[{index + 1}] {document.title}\n{document.text}")
        ids = ids + prompts.fixed["\n\n"]
        spans.append((len(ids), len(ids) + len(piece)))
        ids = ids + piece
    return ids if instruction is None else ids + prompts.fixed["\n\n"] + prompts.fixed[instruction], spans


@torch.no_grad()
def reading(
    model: Any, prompts: Prompts, documents: int, split: str = "development", n: int = 96, wording: int | None = None
) -> float:
    """Share of questions whose every answer token, EOS included, is the top token (what greedy decoding gives)."""
    examples = world.reading_examples(split, n, documents, seed=5, wording=wording)
    return _answered(model, prompts, [(e, e.question.answers[0]) for e in examples])


@torch.no_grad()
def memory_beside(model: Any, prompts: Prompts, n: int = 96) -> dict[str, float]:
    """Known countries: share remembered beside four documents of noise; what is said against an edited document."""

    def learned(examples: list[world.ReadingExample]) -> list[world.ReadingExample]:
        return [e for e in examples if e.question.relation in prompts.known.get(e.question.country, {})]

    noise = learned(world.noise_examples("known", n, seed=5))
    edited = learned(world.conflict_examples("known", n, seed=5))
    asked = {
        "noise": [(e, e.question.answers[0]) for e in noise],
        "memory": [(e, e.question.answers[0]) for e in edited],
        "document": [(e, e.stated[0]) for e in edited],
    }
    return {name: round(_answered(model, prompts, rows), 3) for name, rows in asked.items()}


def _answered(model: Any, prompts: Prompts, asked: list[tuple[world.ReadingExample, str]]) -> float:
    """Share of answers whose every token, EOS included, is the top token."""
    packs = []
    for example, answer in asked:
        pack = Pack(_prefix(prompts, example.documents, ANSWER)[0])
        prompts.add(pack, example.question.text, answer)
        packs.append(pack)
    right = 0
    for start in range(0, len(packs), 16):
        part = packs[start : start + 16]
        batch = collate(part)
        _, hits, rows, _ = loss_and_hits(model, batch)
        wrong = set(rows[~hits].tolist())
        right += len(part) - len(wrong)
    return right / len(packs)


@torch.no_grad()
def closed_book(model: Any, prompts: Prompts, n: int = 160) -> float:
    """The same for questions about known countries without documents."""
    draw = random.Random(5)
    batch = collate([prompts.closed_book(draw, 1) for _ in range(n)])
    _, hits, rows, _ = loss_and_hits(model, batch)
    return 1 - len(set(rows[~hits].tolist())) / n


@torch.no_grad()
def head_scores(model: Any, prompts: Prompts, query: str, documents: Any) -> Tensor:
    """Calibrated attention mass of every head on every document, `[layer, head, document]` (qrhead: mean, minus N/A).

    `model` must run eager attention in fp32; tail tokens are averaged, document tokens summed, low outliers dropped.
    """
    ids, spans = _prefix(prompts, documents, None)
    rows = []
    for text in (query, "N/A"):
        tail = prompts.fixed["\n\n"] + prompts.fixed[FIND] + prompts.fixed["\n\n"] + prompts.fixed["Query:"]
        tail = tail + prompts.encode(" " + text) + prompts.fixed["\nAnswer:"]
        maps = model(input_ids=torch.tensor([ids + tail]), output_attentions=True).attentions
        rows.append(torch.stack([m[0, :, len(ids) + 1 :, : len(ids)].mean(1) for m in maps]))
    change = rows[0] - rows[1]
    out = []
    for start, end in spans:
        part = change[..., start:end]
        keep = part > part.mean(-1, keepdim=True) - 2 * part.std(-1, keepdim=True)
        out.append((part * keep).sum(-1))
    return torch.stack(out, -1)


@torch.no_grad()
def ranking(
    model: Any, prompts: Prompts, n: int = 30, candidates: int = 20, split: str = "development"
) -> dict[str, Any]:
    """Recall@1 of the two heads with most mass on gold documents (found on half, measured on half), and of all."""
    scores, golds = [], []
    for example in world.ranking_examples(split, n, candidates, seed=5):
        scores.append(head_scores(model, prompts, example.query, example.documents))
        golds.append(example.grades().index(1.0))
    stacked, gold = torch.stack(scores), torch.tensor(golds)
    layers, heads = stacked.shape[1:3]
    mass = stacked.gather(-1, gold[:, None, None, None].expand(-1, layers, heads, 1))[..., 0]
    half = n // 2
    best = mass[:half].mean(0).flatten().topk(2).indices
    flat = stacked.flatten(1, 2)
    top = (flat[half:, best].sum(1).argmax(-1) == gold[half:]).float().mean().item()
    every = (flat.sum(1).argmax(-1) == gold).float().mean().item()
    each = (flat.argmax(-1) == gold[:, None]).float().mean(0)
    names = [f"{int(b) // heads}-{int(b) % heads}" for b in best]
    return {"qr": round(top, 3), "all": round(every, 3), "one": round(each.max().item(), 3), "heads": names}


@torch.no_grad()
def quick(model: Any, prompts: Prompts, deep: bool = True) -> dict[str, Any]:
    """All of it, small enough to run during training."""
    out: dict[str, Any] = {"closed": round(closed_book(model, prompts), 3)}
    out["read"] = {d: round(reading(model, prompts, d, n=48), 3) for d in (1, 5, 12)}
    if out["closed"] > 0.1:
        out |= memory_beside(model, prompts)
    out["read5_new_wording"] = round(reading(model, prompts, 5, n=48, wording=-1), 3)
    model.set_attn_implementation("eager")
    out["copy"] = {length: round(share, 3) for length, share in copying(model).items()}
    if deep:
        out["rank"] = ranking(model, prompts)
    model.set_attn_implementation(TRAINING_ATTENTION)
    return out
