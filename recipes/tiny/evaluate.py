"""Measure a finished model on the held-out countries; writes the numbers of docs/results/tiny.md and of the card.

python -m recipes.tiny.evaluate [--model tiny] [--output docs/results/tiny.json] [--page docs/results/tiny.md ...]

Nothing here is used to choose anything; choices are made on development countries (`recipes.tiny.measure`).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import headwater as hw
from headwater.data import world
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.metrics import order
from headwater.evaluate.questions import head_scorer, random_document_answer
from headwater.evaluate.statistics import mean_interval, paired_difference
from headwater.evaluate.tables import fill_page
from headwater.evaluate.tables import table as markdown_table
from headwater.evaluate.tasks.qed import Qed
from headwater.evaluate.tasks.squad import Squad
from headwater.heads.query_focused import QueryFocusedHeads
from headwater.heads.random_heads import RandomHeads
from headwater.headset.headset import HeadSet
from headwater.prompt.prompt import prompt_template
from headwater.read.support import judge, known_support
from recipes.tiny import measure
from recipes.tiny.text import data_folder, known_facts, unread_paragraphs

Json = dict[str, Any]
Facts = dict[str, dict[str, str]]
COUNTS = (1, 5, 20)
BATCH = 16


@torch.no_grad()
def decode(lm: Any, prompts: Sequence[list[int]], new_tokens: int = 40) -> list[str]:
    """Greedy answers to prompts of token ids, left-padded in batches of similar length."""
    out = [""] * len(prompts)
    pad = lm.tokenizer.pad_token_id
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), BATCH):
        part = by_length[start : start + BATCH]
        width = max(len(prompts[i]) for i in part)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in part])
        made = lm.model.generate(
            ids, attention_mask=(ids != pad).long(), max_new_tokens=new_tokens, do_sample=False, pad_token_id=pad
        )
        for i, row in zip(part, made[:, width:], strict=True):
            out[i] = lm.tokenizer.decode(row, skip_special_tokens=True).strip().split("\n")[0].strip()
    return out


def scored(questions: Sequence[world.Question], said: Sequence[str]) -> Json:
    """Normalised exact match with an interval over countries, and texts and numbers apart."""
    right = [float(world.exact_match(text, q.answers)) for q, text in zip(questions, said, strict=True)]
    row: Json = mean_interval(right, [q.country for q in questions]).as_dict()
    for kind in ("text", "number"):
        of_kind = [r for q, r in zip(questions, right, strict=True) if world.RELATIONS[q.relation].kind == kind]
        row[kind] = sum(of_kind) / max(1, len(of_kind))
    return row


def reading(lm: Any, n: int, counts: Sequence[int] = COUNTS) -> Json:
    """One gold document among 1, 5 and 20, in trained and in new wordings, with two floors."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    out: Json = {}
    for name, wording in (("trained wordings", None), ("new wording", -1)):
        for count in counts:
            for hard in (False, True) if count > 1 else (False,):
                examples = world.reading_examples("held_out", n, count, seed=0, wording=wording, hard=hard)
                prompts = [[*template.prefix(e.documents).ids, *template.tail(e.question.text)] for e in examples]
                asked = [e.question for e in examples]
                key = f"gold among {count}{' (look-alikes)' if hard else ''}, {name}"
                out[key] = scored(asked, decode(lm, prompts))
                if count == 5 and not hard and wording is None:
                    out["majority answer"] = scored(asked, [world.majority_answer(q.relation) for q in asked])
                    out["random document of 5"] = scored(asked, [random_document_answer(e, 0) for e in examples])
    return out


def closed_book(lm: Any, n: int, known: Facts | None = None) -> Json:
    """Questions without documents: known facts, and held-out facts, where nothing can be known."""
    template, known = prompt_template(lm.tokenizer, instruction="answer"), known_facts() if known is None else known
    out: Json = {}
    for split in ("known", "held_out"):
        asked = world.questions(split, seed=0, wording=-1)
        if split == "known":
            asked = [q for q in asked if q.relation in known.get(q.country, {})]
        asked = asked[:n]
        begin = [*template.header, *template.encode("Query:")]
        said = decode(lm, [[*begin, *template.encode(" " + q.text), *template.suffix] for q in asked])
        out[f"{split}, model"] = scored(asked, said)
        out[f"{split}, majority answer"] = scored(asked, [world.majority_answer(q.relation) for q in asked])
    return out


def conflict(lm: Any, n: int, known: Facts | None = None) -> Json:
    """A known country's document with another country's answer in place of its own: which of the two is said?"""
    template, known = prompt_template(lm.tokenizer, instruction="answer"), known_facts() if known is None else known
    rows = [
        e
        for e in world.conflict_examples("known", _pool(n, known), seed=1, wording=-1)
        if e.question.relation in known.get(e.question.country, {})
    ][:n]
    said = decode(lm, [[*template.prefix(e.documents).ids, *template.tail(e.question.text)] for e in rows])
    document = [float(world.exact_match(s, e.stated)) for s, e in zip(said, rows, strict=True)]
    memory = [float(world.exact_match(s, e.question.answers)) for s, e in zip(said, rows, strict=True)]
    groups = [e.question.country for e in rows]
    other = [1 - d - m for d, m in zip(document, memory, strict=True)]
    shares = {"document's answer": document, "memory's answer": memory, "anything else": other}
    return {name: mean_interval(values, groups).as_dict() for name, values in shares.items()}


def _pool(n: int, known: Facts) -> int:
    """How many questions about known countries to draw, so that at least `n` are about remembered facts."""
    return 2 * n * max(1, len(known_facts()) // len(known))


def places(lm: Any, n: int) -> Json:
    """The gold document first, in the middle and last of twenty."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    out: Json = {}
    examples = world.reading_examples("held_out", n, 20, seed=0)
    for name, place in (("first", 0), ("eleventh", 10), ("last", 19)):
        prompts = []
        for e in examples:
            others = [document for i, document in enumerate(e.documents) if i != e.gold[0]]
            shown = [*others[:place], e.documents[e.gold[0]], *others[place:]]
            prompts.append([*template.prefix(shown).ids, *template.tail(e.question.text)])
        out[f"{name} of 20"] = scored([e.question for e in examples], decode(lm, prompts))
    return out


def noise(lm: Any, n: int, known: Facts | None = None) -> Json:
    """Known facts beside four documents that do not hold them: of what is known without documents, how much is left?"""
    template, known = prompt_template(lm.tokenizer, instruction="answer"), known_facts() if known is None else known
    rows = [
        e
        for e in world.noise_examples("known", _pool(n, known), 4, seed=2, wording=-1)
        if e.question.relation in known.get(e.question.country, {})
    ][:n]
    begin = [*template.header, *template.encode("Query:")]
    alone = decode(lm, [[*begin, *template.encode(" " + e.question.text), *template.suffix] for e in rows])
    beside = decode(lm, [[*template.prefix(e.documents).ids, *template.tail(e.question.text)] for e in rows])
    right = [world.exact_match(a, e.question.answers) for a, e in zip(alone, rows, strict=True)]
    kept = [
        (float(world.exact_match(b, e.question.answers)), e.question.country)
        for b, e, r in zip(beside, rows, right, strict=True)
        if r
    ]
    out: Json = {"known without documents": scored([e.question for e in rows], alone)}
    if kept:
        out["of these, right beside 4 noise documents"] = mean_interval(*map(list, zip(*kept, strict=True))).as_dict()
    return out


def needle(lm: Any, n: int, data: Path) -> Json:
    """A sentence that states a held-out fact between paragraphs of a novel that no training text holds."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    paragraphs = unread_paragraphs(data)

    def tokens(text: str) -> int:
        return len(template.encode(text))

    out: Json = {}
    for length in (512, 1024, 2048):
        examples = world.needle_examples("held_out", n, paragraphs, length, measure=tokens, seed=0)
        prompts = [[*template.prefix(e.documents).ids, *template.tail(e.question.text)] for e in examples]
        out[f"{length:,} tokens"] = scored([e.question for e in examples], decode(lm, prompts))
    return out


def passages(lm: Any, n: int, data: Path) -> Json:
    """Questions about one paragraph of Wikipedia, which no training text resembles: SQuAD 2.0 (answerable) and QED."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    qa = data / "qa"
    tasks = {
        "SQuAD 2.0 dev": Squad(qa / "squad" / "squad-dev-v2.0.rebuilt.json"),
        "QED dev": Qed(qa / "qed" / "qed-dev.jsonlines"),
    }
    out: Json = {}
    for name, task in tasks.items():
        items = [item for item in task.load() if item.answers]
        items = random.Random(0).sample(items, min(n, len(items)))
        said = decode(lm, [[*template.prefix(i.documents).ids, *template.tail(i.question)] for i in items])
        scores = [task.score(item, text) for item, text in zip(items, said, strict=True)]
        for metric in ("EM", "F1"):
            values = [score[metric] for score in scores]
            out[f"{name}, {metric}"] = mean_interval(values, [i.group for i in items]).as_dict()
    return out


def support(lm: Any, n: int) -> Json:
    """The shipped threshold: right answers kept; answers without their document refused, by words alone and by it."""
    judged = judge(lm, "held_out", n)
    least = known_support(lm)
    right = [j for j in judged if j.right]
    shares = {
        "right answers supported": ([float(j.confidence >= least) for j in right], [j.group for j in right]),
        "without the document: refused by words alone": (
            [float(j.without == 0) for j in judged],
            [j.group for j in judged],
        ),
        f"without the document: refused (confidence below {least:.2f} too)": (
            [float(j.without < least or j.without == 0) for j in judged],
            [j.group for j in judged],
        ),
    }
    return {name: mean_interval(*columns).as_dict() for name, columns in shares.items()}


def ranking(lm: Any, n: int, candidates: int = 20) -> Json:
    """Recall@1 among candidates: heads found on development countries, all heads, ten random sets of equal size."""
    found = QueryFocusedHeads().find(lm, world.ranking_examples("development", 128, candidates, seed=0))
    sets = {"QR heads": found, "all heads": HeadSet(lm.anatomy.all_heads)}
    sets |= {f"random {i}": RandomHeads(top_k=len(found), seed=i).find(lm) for i in range(10)}
    out: Json = {"heads": str(found)}
    for name, hard in (("same split", False), ("look-alikes", True)):
        examples = world.ranking_examples("held_out", n, candidates, seed=0, hard=hard)
        hits: dict[str, list[float]] = {key: [] for key in sets}
        for example in examples:
            gold = example.grades().index(1.0)
            for key, row in head_scorer(lm, sets)(example.query, example.documents).items():  # type: ignore[arg-type]
                hits[key].append(float(order(row)[0] == gold))
        groups = [e.group for e in examples]
        drawn = [hits.pop(f"random {i}") for i in range(10)]
        hits["random heads"] = [sum(column) / 10 for column in zip(*drawn, strict=True)]
        rows: Json = {key: mean_interval(values, groups).as_dict() for key, values in hits.items()}
        for key in ("all heads", "random heads"):
            rows[f"QR heads - {key}"] = paired_difference(hits["QR heads"], hits[key], groups).as_dict()
        out[name] = rows
    return out


def table(rows: Json, kinds: bool = False) -> str:
    """Mean and interval per row; with `kinds`, textual and numeric answers apart."""
    head = ["test", "share [95 %]", "n", *(["texts", "numbers"] if kinds else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        cells = [name, f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", str(row["n"])]
        cells += [f"{row['text']:.3f}", f"{row['number']:.3f}"] if kinds else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def aims(result: Json) -> str:
    """What was aimed at beside what was reached."""
    read, places, copied = result["reading"], result["places"].values(), result["copying"].values()

    def shares(part: str, *names: str) -> str:
        return " / ".join(f"{result[part][name]['mean']:.3f}" for name in names)

    def among(count: int, kind: str = "") -> str:
        wordings = ("trained wordings", "new wording")
        return " / ".join(f"{read[f'gold among {count}{kind}, {wording}']['mean']:.3f}" for wording in wordings)

    ratio = min(row["mean"] for row in places) / max(row["mean"] for row in places)
    ranked = result["ranking"]["same split"]
    rows = [
        ["closed book, known facts, new wording", "0.85", shares("closed book", "known, model")],
        ["one document: trained wordings / new wording", "0.90", among(1)],
        ["gold among five", "0.85", among(5)],
        ["gold among five, look-alikes", "", among(5, " (look-alikes)")],
        ["gold among twenty", "0.70", among(20)],
        ["gold among twenty, look-alikes", "", among(20, " (look-alikes)")],
        ["gold first, eleventh, last of twenty: worst over best", "0.85", f"{ratio:.3f}"],
        ["copying 7 to 80 tokens: worst / best length", "0.95", f"{min(copied):.3f} / {max(copied):.3f}"],
        [
            "conflict: document / memory / anything else",
            "0.25-0.75 / at least 0.20 / at most 0.15",
            shares("conflict", *result["conflict"]),
        ],
        ["noise: of what is known, kept", "0.50-0.90", shares("noise", list(result["noise"])[-1])],
        ["needle at 512 / 1,024 / 2,048 tokens", "0.80 / 0.70 / 0.60", shares("needle", *result["needle"])],
        [
            "recall@1 of twenty: QR heads / all heads",
            "0.85, not below all heads",
            f"{ranked['QR heads']['mean']:.3f} / {ranked['all heads']['mean']:.3f}",
        ],
    ]
    return markdown_table(["test", "aim", "reached"], rows)


def tables(result: Json) -> dict[str, str]:
    """The tables of the page by name."""
    copying = " | ".join(f"{share:.3f}" for share in result["copying"].values())
    lengths = " | ".join(str(length) for length in result["copying"])
    made = result["made"]
    machine = ", ".join(f"{k} {v}" for k, v in made["machine"].items())
    return {
        "aims": aims(result),
        "copying": f"| block length | {lengths} |\n|{'---|' * (len(result['copying']) + 1)}\n| right | {copying} |",
        "reading": table(result["reading"], kinds=True),
        "memory": table(result["closed book"], kinds=True),
        "conflict": table(result["conflict"]),
        "places": table(result["places"], kinds=True),
        "noise": table(result["noise"]),
        "needle": table(result["needle"], kinds=True),
        "passages": table(result["passages"]),
        "support": table(result["support"]),
        "ranking": table(result["ranking"]["same split"]),
        "lookalikes": table(result["ranking"]["look-alikes"]),
        "made": f"`{made['command']}`; model fingerprint `{made['fingerprint']}`; QR heads "
        f"`{result['ranking']['heads']}`; torch {made['versions']['torch']}, transformers "
        f"{made['versions']['transformers']}; {machine}; {made['date'][:10]}.",
    }


def main() -> None:
    """Measure, write JSON, fill the pages."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", default="tiny")
    cli.add_argument("--n", type=int, default=500, help="questions per test")
    cli.add_argument("--output", type=Path, default=Path("docs/results/tiny.json"))
    cli.add_argument("--page", type=Path, action="append", default=[], help="pages with places for the tables")
    cli.add_argument("--data", help="folder of the raw data sets, for the novel (default: HEADWATER_DATA)")
    args = cli.parse_args()
    data = data_folder(cli, args.data)
    lm = hw.load(args.model, dtype="float32")
    result: Json = {"copying": measure.copying(lm.model, rows=64)}
    for name, run in (
        ("reading", reading),
        ("closed book", closed_book),
        ("conflict", conflict),
        ("places", places),
        ("noise", noise),
        ("needle", lambda lm, n: needle(lm, n, data)),
        ("passages", lambda lm, n: passages(lm, n, data)),
        ("support", support),
        ("ranking", ranking),
    ):
        result[name] = run(lm, args.n)
        print(name, "done", flush=True)
    made = made_with("python -m recipes.tiny.evaluate", lm.name, 0, fingerprint=lm.fingerprint)
    result = {"made": made, **result}
    write_json(args.output, result)
    for page in args.page:
        fill_page(page, tables(result))
    for name, text in tables(result).items():
        print(f"\n{name}\n{text}")


if __name__ == "__main__":
    main()
