"""`headwater llara mine` and `headwater llara tune`: hard negatives, and a retriever trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.data.documents import Document, RankingExample
    from headwater.model.lm import LanguageModel

MINE_EXAMPLES = """
Examples:

  headwater llara mine --output mined

  headwater llara mine --data scifact/ --split train --source bm25 --source dense --embedder adapted --judge dense \\
      --output mined

  headwater llara mine --examples mine.jsonl --docs notes/ --judge qr --model my-model --output mined
"""
TUNE_EXAMPLES = """
Examples:

  headwater llara tune --output my-embedder

  headwater llara tune --model adapted --examples mined --development dev.jsonl --output my-embedder

  headwater llara tune --examples mined --teacher qr --distill 0.5 --chunk 64 --output my-embedder

Then: headwater index add notes/ --index notes.index --embed my-embedder
"""
_Examples = Annotated[
    Path | None,
    typer.Option("--examples", help="Ranking examples (JSONL, or a folder of `mine`). Default: the built-in ones."),
]


def mine(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the examples; run again, it goes on.")],
    examples: _Examples = None,
    data: Annotated[Path | None, typer.Option("--data", help="A BEIR folder: its queries and corpus.")] = None,
    split: Annotated[str, typer.Option("--split", help="Of the BEIR folder's judgements.")] = "train",
    docs: options.Docs = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="bm25 or dense; repeatable. Default: bm25.")
    ] = None,
    embedder: Annotated[
        str, typer.Option("--embedder", help="Of the source and the judge 'dense': 'tiny', a folder, or any model.")
    ] = "tiny",
    judge: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="Leaves out what it scores near a known positive: dense, qr, or the name of a cross-encoder; "
            "repeatable. Default: none.",
        ),
    ] = None,
    model: options.Model = "tiny",
    heads: options.Heads = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Candidates of each source.")] = 200,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Negatives of a query.")] = 30,
    margin: Annotated[
        float, typer.Option("--margin", min=0, max=0.99, help="A judge's margin, as a share of the positive's score.")
    ] = 0.05,
    exclude: Annotated[
        Path | None, typer.Option("--exclude", help="A file of document ids that may not be used, one per line.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find hard negatives for queries with known positives, and leave out what is likely relevant."""
    sources, judges = source or ["bm25"], judge or []
    unknown = next((name for name in sources if name not in ("bm25", "dense")), None)
    if unknown is not None:
        raise InputError(f"Unknown source {unknown!r}; use bm25 or dense.")
    if examples is not None and data is not None:
        raise InputError("Give either --examples or --data, not both.")
    given, corpus = _queries(examples, data, split, docs, quiet)
    barred = _names(exclude)
    options.writable_folder(output.parent)
    from headwater.search.mine import Mining, bm25_source

    method = Mining(depth=depth, keep=keep, relative_margin=margin, seed=seed)
    made_with: dict[str, Any] = {}
    found: dict[str, Any] = {}
    checks: dict[str, Any] = {}
    if "dense" in (*sources, *judges):
        from headwater.search.exact import Dense

        student = options.load_embedder(embedder, device, dtype, quiet)
        made_with["embedder"] = student.fingerprint
        checks["dense"] = student.score
    for name in sources:
        if name == "bm25":
            found[name] = bm25_source(corpus)
        else:
            with progress("embedding", quiet) as step:
                found[name] = Dense(corpus, student, progress=step).search
    for name in judges:
        if name == "qr":
            ranker = options.load_ranker(options.load_model(model, device, dtype, quiet), heads, "auto", quiet)
            checks["qr"] = ranker.score
            made_with |= {"ranker": ranker.lm.fingerprint, "heads": [list(head) for head in ranker.heads.heads]}
        elif name != "dense":
            from headwater.rank.external import CrossEncoderModel

            checks[name] = CrossEncoderModel(name, device).scores
    chosen = {name: checks[name] for name in judges}
    with progress("mining", quiet) as step:
        counts = method.run(given, corpus, found, output, chosen, barred, made_with, step)
    note(f"Examples written to {output}.", quiet)
    if not judges:
        note("No judge: unmarked positives may be among the negatives (--judge dense or --judge qr).", quiet)
    if json_output:
        emit({"path": str(output), "counts": dict(counts)})
        return
    for name, count in counts.items():
        out.print(f"{name:20} {count:,}", markup=False)


def tune(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the embedder; started again, the training goes on.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="'tiny', a hub id, a path, or the folder of `llara adapt`.")
    ] = "tiny",
    examples: _Examples = None,
    development: Annotated[
        Path | None,
        typer.Option("--development", help="Examples to choose the best step on. Default: a tenth of the others."),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="How often each query is trained on.")] = 1,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps, instead of epochs.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Queries of a step.")] = 64,
    chunk: Annotated[
        int | None, typer.Option("--chunk", min=1, help="Texts encoded at a time (GradCache). Default: all.")
    ] = None,
    negatives: Annotated[
        int | None, typer.Option("--negatives", min=0, help="Of each query. Default: as many as all have, at most 15.")
    ] = None,
    trainable: Annotated[str, typer.Option("--trainable", help="lora or full.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the adapter.")] = 64,
    alpha: Annotated[float, typer.Option("--alpha", help="The adapter is scaled by alpha / rank.")] = 16.0,
    dropout: Annotated[float, typer.Option("--dropout", help="Of the adapter's input.")] = 0.1,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="The highest one. Default: 1e-4, and 1e-5 of full.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the softmax over cosines.")] = 0.01,
    dimensions: Annotated[
        str | None, typer.Option("--dimensions", help="Also train the first so many dimensions, such as 128,64.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="qr (this model's own ranking heads), or a cross-encoder's name.")
    ] = None,
    distill: Annotated[
        float | None, typer.Option("--distill", min=0, max=1, help="Share of the teacher in the loss. Default: 0.5.")
    ] = None,
    mask_margin: Annotated[
        float | None,
        typer.Option("--mask-margin", help="No negative is nearer than the positive by more. Default: any may be."),
    ] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="Put in front of every query. Default: the model's own, if any.")
    ] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", help="Roles of query and document: n2s (the default), s2s, n2n, m2m.")
    ] = None,
    query_tokens: Annotated[int, typer.Option("--query-tokens", min=1, help="Of a query, in training.")] = 64,
    document_tokens: Annotated[int, typer.Option("--document-tokens", min=1, help="Of a document, in training.")] = 160,
    max_length: Annotated[
        int, typer.Option("--max-length", min=1, help="Most tokens of a text when the embedder is used.")
    ] = 512,
    every: Annotated[int, typer.Option("--every", min=1, help="Steps between validations and checkpoints.")] = 50,
    patience: Annotated[int, typer.Option("--patience", min=1, help="Validations without a new best, then stop.")] = 5,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a retriever: queries near their passages, away from the passages of all others."""
    given = None if examples is None else _read(examples)
    checks = None if development is None else _read(development)
    if distill is not None and teacher is None:
        raise InputError("--distill needs a teacher: add --teacher qr, or a cross-encoder's name.")
    sizes = () if dimensions is None else options.numbers(dimensions, "--dimensions")
    if not all(size.is_integer() for size in sizes):
        raise InputError(f"--dimensions takes whole numbers, got {dimensions!r}.")
    options.writable_folder(output.parent)
    from headwater.model.adapter import require_peft

    require_peft()
    from headwater.adapt.contrastive import ContrastiveTuning

    def plan(judge: Any) -> ContrastiveTuning:
        return ContrastiveTuning(
            trainable=trainable,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            learning_rate=learning_rate,
            epochs=epochs,
            steps=steps,
            batch=batch,
            chunk=chunk,
            negatives=negatives,
            temperature=temperature,
            dimensions=tuple(int(size) for size in sizes),
            teacher=judge,
            distill=0.0 if judge is None else 0.5 if distill is None else distill,
            teacher_temperature=0.01 if teacher == "qr" else None,
            mask_margin=mask_margin,
            pair=pair,
            instruction=instruction,
            query_length=query_tokens,
            document_length=document_tokens,
            max_length=max_length,
            every=every,
            patience=patience,
            seed=seed,
        )

    plan(None if teacher is None else "qr")  # what cannot train is refused before anything is loaded
    lm = options.load_model(model, device, dtype, quiet)
    method = plan(_teacher(teacher, lm, device, dtype, quiet))
    with progress("training", quiet) as step:
        folder = method.fit(lm, given, output, checks, progress=step)
    from headwater.adapt.training import main_process

    if not main_process():
        return
    record = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
    config, result = record["config"], record["result"]
    checked = [row for row in result["log"] if "eval_ndcg@10" in row]
    note(f"Embedder written to {folder}.", quiet)
    if json_output:
        emit({"path": str(folder), "config": config, "steps": result["steps"], "best": result["best"], "log": checked})
        return
    out.print(f"{result['queries']} queries, {result['steps']} steps of {config['batch']}", markup=False)
    for row in checked:
        mark = " *" if row["step"] == result["best"] else ""
        out.print(f"step {row['step']:5}   development nDCG@10 {row['eval_ndcg@10']:.3f}{mark}", markup=False)


def _teacher(name: str | None, lm: LanguageModel, device: str | None, dtype: str | None, quiet: bool) -> Any:
    """What gives scores: the ranking heads of the model (of its base, where it carries an adapter), or others."""
    if name is None:
        return None
    if name == "qr":
        from headwater.model.adapter import adapter_base

        base = adapter_base(lm.name)
        plain = lm if base is None else options.load_model(base, device, dtype, quiet)
        return options.load_ranker(plain, None, "auto", quiet).score
    from headwater.rank.external import CrossEncoderModel

    return CrossEncoderModel(name, device).scores


def _read(path: Path) -> list[RankingExample]:
    """Ranking examples of a file, or of the folder that `mine` wrote."""
    from headwater.data.formats import read_examples

    return read_examples(path / "examples.jsonl" if path.is_dir() else path)


def _queries(
    examples: Path | None, data: Path | None, split: str, docs: Path | None, quiet: bool
) -> tuple[list[RankingExample], list[Document]]:
    """Queries with their known positives, and the corpus that is mined."""
    from headwater.data.documents import RankingExample, as_documents

    if data is not None:
        from headwater.data.formats import read_beir

        beir = read_beir(data, split)
        by_id = {str(document.id): document for document in beir.documents}
        given = []
        for name, grades in beir.qrels.items():
            good = [by_id[i] for i, grade in grades.items() if grade > 0 and i in by_id]
            given.append(RankingExample(beir.queries[name], good, list(range(len(good))), name))
        return given, options.documents_at(docs, quiet) if docs is not None else beir.documents
    if examples is not None:
        given = _read(examples)
    else:
        from headwater.data import world

        given = world.ranking_examples("known", 1024)
    if docs is not None:
        return given, options.documents_at(docs, quiet)
    pool: dict[Any, Document] = {}
    for example in given:
        pool.update({(document.title, document.text): document for document in as_documents(example.documents)})
    return given, list(pool.values())


def _names(path: Path | None) -> list[str]:
    """Ids of a file, one per line."""
    if path is None:
        return []
    from headwater.data.text import read_text

    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
