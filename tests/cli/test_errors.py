"""Every command with input it cannot use: one clear sentence, exit code 1 or 2, nothing half-written."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.data.files import READERS, read_documents
from headwater.data.formats import parse_lines, read_beir, read_examples, read_queries, read_run
from headwater.errors import HeadwaterError
from headwater.headset import HeadSet
from headwater.headset.importers import read_duo_attention

RANK = ["rank", "q", "--model", "{model}", "--heads", "all", "--docs"]
ASK = ["ask", "q", "--model", "{model}", "--heads", "all", "--docs"]
ADD = ["index", "add", "--index", "{tmp}/ix"]
MASK = ["heads", "mask", "--model", "{model}", "--output", "{tmp}/run"]
RUN = ["rank", "--model", "{model}", "--heads", "all", "--output", "{tmp}/out.trec"]
FILES = ["--run", "{tmp}/run.trec", "--queries", "{tmp}/queries.tsv", "--docs", "{tmp}/corpus.jsonl"]
DATA = ["parent", "data", "--model", "{model}", "--output", "{tmp}/sets"]
MINE = ["parent", "mine", "--model", "{model}", "--output", "{tmp}/mined"]
PARENT = ["parent", "tune", "--model", "{model}", "--output", "{tmp}/parent"]
ADAPT = ["llara", "adapt", "--model", "{model}", "--output", "{tmp}/adapted"]
TUNE = ["heads", "tune", "--model", "{model}", "--output", "{tmp}/tuned"]
EMBED = ["embed", "--model", "{model}", "--output", "{tmp}/vectors"]
MINE_NEGATIVES = ["llara", "mine", "--output", "{tmp}/mined"]
RETRIEVER = ["llara", "tune", "--model", "{model}", "--output", "{tmp}/tuned"]
BAD = [
    (["rank", "q", "--docs", "{tmp}/missing"], 2, "no file or folder"),
    (["rank", "q", "--docs", "{tmp}/empty"], 2, "no documents"),
    (["rank", "q", "--docs", "{tmp}/bad.jsonl"], 2, "line 2"),
    (["rank", "q", "--docs", "{tmp}/binary.txt"], 2, "binary"),
    (["rank", " ", "--docs", "{notes}", "--model", "{model}", "--heads", "all"], 2, "blank"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "9-9"], 2, "9"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "some"], 2, "not a head set file"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "{tmp}/missing.json"], 2, "missing.json"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--template", "odd"], 2, "template"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--dtype", "odd"], 2, "dtype"),
    (["rank", "q", "--docs", "{notes}", "--model", "{tmp}/missing"], 1, "Could not load"),
    (["rank", "q", "--docs", "{tmp}/long.txt", "--model", "{model}", "--heads", "all"], 2, "8,192"),
    ([*RANK, "{notes}", "--order", "odd"], 2, ""),
    ([*RANK, "{notes}", "--tail", "odd"], 2, ""),
    ([*RANK, "{notes}", "--max-doc-tokens", "0"], 2, ""),
    ([*RANK, "{notes}", "--tail", "query", "--null-query", ""], 2, "empty null query"),
    ([*RANK, "{notes}", "--template", "bare"], 2, "knows none for this tokenizer"),
    ([*ASK, "{notes}", "--order", "odd"], 2, ""),
    (["rank"], 2, ""),
    (["rank", "q", "--docs", "{notes}", "--top-k", "0"], 2, ""),
    (["ask", "q"], 2, ""),
    (["ask", " ", "--docs", "{notes}", "--model", "{model}", "--heads", "all"], 2, "blank"),
    (["ask", "q", "--docs", "{tmp}/empty"], 2, "no documents"),
    (["heads", "find", "--output", "{tmp}/x.json", "--examples", "{tmp}/missing"], 2, "no examples file"),
    (["heads", "find", "--output", "{tmp}/x.json", "--examples", "{tmp}/bad.jsonl"], 2, "line 1"),
    (["heads", "find", "--output", "{tmp}/bad.jsonl/x.json", "--model", "{model}"], 2, "Cannot use the folder"),
    (["heads", "find", "--output", "{tmp}/x.json", "--metric", "odd"], 2, ""),
    ([*TUNE, "--examples", "{tmp}/missing"], 2, "no examples file"),
    ([*TUNE, "--examples", "{tmp}/bad.jsonl"], 2, "line 1"),
    ([*TUNE, "--examples", "{tmp}/no-gold.jsonl", "--heads", "0-0"], 2, "nothing to train on"),
    ([*TUNE, "--examples", "{tmp}/gold.jsonl", "--heads", "9-9"], 2, "9-9"),
    ([*TUNE, "--examples", "{tmp}/gold.jsonl", "--heads", "0-0", "--temperature", "0"], 2, "temperature"),
    ([*TUNE, "--examples", "{tmp}/gold.jsonl", "--development", "{tmp}/missing"], 2, "no examples file"),
    ([*TUNE[:4], "--output", "{tmp}/bad.jsonl/x", "--examples", "{tmp}/gold.jsonl"], 2, "Cannot use the folder"),
    ([*TUNE[:4], "--heads", "0-0", "--output", "{notes}", "--examples", "{tmp}/gold.jsonl"], 2, "not empty"),
    ([*DATA, "--train", "{tmp}/missing"], 2, "no question file"),
    ([*DATA, "--train", "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*DATA, "--train", "{tmp}/schema.jsonl"], 2, "line 1: expected a line such as"),
    ([*DATA, "--train", "{tmp}/binary.txt"], 2, "binary"),
    ([*DATA, "--train", "world", "--evaluate", "world"], 2, "given twice"),
    ([*DATA, "--items", "train=some"], 2, "--items takes whole numbers"),
    ([*DATA, "--items", "odd=3"], 2, "train, development, test"),
    ([*DATA, "--documents", "4,2"], 2, "from 1 on"),
    ([*DATA, "--documents", "3"], 2, "--documents takes two numbers"),
    ([*DATA, "--shares", "1,1,1"], 2, "sum to 1"),
    ([*DATA, "--conflict", "odd"], 2, ""),
    ([*DATA, "--avoid", "{tmp}/missing"], 2, "no file or folder"),
    ([*DATA[:4], "--output", "{tmp}/bad.jsonl", "--questions", "5"], 2, "Cannot use the folder"),
    ([*DATA[:4], "--output", "{notes}", "--questions", "5"], 2, "not empty"),
    ([*MINE, "--data", "{tmp}/missing"], 2, "parent data"),
    ([*MINE, "--data", "{notes}"], 2, "has no data.json"),
    ([*MINE, "--data", "{notes}", "--unit", "odd"], 2, "use pair, factor, rank, matrix"),
    ([*MINE, "--data", "{notes}", "--preset", "odd"], 2, "use paper, code"),
    ([*MINE, "--data", "{notes}", "--plot", "x.odd"], 2, ".png"),
    ([*PARENT, "--data", "{tmp}/missing"], 2, "There is no folder"),
    ([*PARENT, "--data", "{notes}"], 2, "has no data.json"),
    ([*PARENT, "--data", "{notes}", "--units", "{tmp}/missing"], 2, "Cannot read the unit map"),
    ([*PARENT, "--data", "{notes}", "--units", "{tmp}/bad.jsonl"], 2, "not JSON"),
    ([*PARENT, "--data", "{notes}", "--mode", "odd"], 2, "use routed, unified, mixture, merge"),
    ([*PARENT, "--data", "{notes}", "--sets", "a,odd"], 2, "sets takes some of"),
    ([*PARENT, "--data", "{notes}", "--merge-weights", "odd"], 2, "Unknown merge weights"),
    ([*PARENT, "--data", "{notes}", "--learning-rate", "0"], 2, "learning_rate must be above 0"),
    ([*PARENT, "--data", "{notes}", "--leak", "0.7"], 2, "leak from 0 to 0.5"),
    ([*PARENT, "--data", "{notes}", "--order", "A,R"], 2, "E, A and R once each"),
    ([*PARENT, "--data", "{notes}", "--preset", "code", "--mode", "unified"], 2, "preset='code' sets mode"),
    ([*PARENT, "--data", "{notes}", "--max-norm", "0"], 2, "max_norm must be above 0"),
    ([*PARENT, "--data", "{notes}", "--stop", "5"], 2, "stop lies between 0 and 1"),
    (["parent", "merge", "{notes}", "--output", "{tmp}/stock"], 2, "not the folder of an adapter"),
    ([*ADAPT, "--texts", "{tmp}/missing"], 2, "no file or folder"),
    ([*ADAPT, "--texts", "{tmp}/empty"], 2, "no texts"),
    ([*ADAPT, "--texts", "{tmp}/bad.jsonl"], 2, "line 2"),
    ([*ADAPT, "--texts", "{tmp}/binary.txt"], 2, "binary"),
    ([*ADAPT, "--texts", "{notes}", "--objective", "odd"], 2, "objective is one of"),
    ([*ADAPT, "--texts", "{notes}", "--joint", "odd"], 2, "joint is one of"),
    ([*ADAPT, "--texts", "{notes}", "--slots", "nine"], 2, "no prompt with slots='nine'"),
    ([*ADAPT, "--texts", "{notes}", "--pair", "odd"], 2, "pair names the roles"),
    ([*ADAPT, "--texts", "{notes}", "--stopwords", "odd"], 2, "no stop words"),
    ([*ADAPT, "--texts", "{notes}", "--max-length", "20"], 2, "leaves no room"),
    ([*ADAPT, "--texts", "{notes}", "--max-length", "20000"], 2, "reads 8192"),
    ([*ADAPT, "--texts", "{notes}", "--w-lm", "0", "--w-ae", "0"], 2, "smaller chunk_words"),
    ([*ADAPT[:4], "--texts", "{notes}", "--output", "{notes}"], 2, "not empty"),
    ([*ADAPT[:4], "--texts", "{notes}", "--output", "{tmp}/bad.jsonl/x"], 2, "Cannot use the folder"),
    (["heads", "find", "--output", "{tmp}/x.json", "--method", "odd"], 2, "there are"),
    (["heads", "find", "--output", "{tmp}/x.json", "--set", "odd=1"], 2, "has no switch 'odd'; it has top_k"),
    (["heads", "find", "--output", "{tmp}/x.json", "--set", "seed"], 2, "NAME=VALUE"),
    (["heads", "find", "--output", "{tmp}/x.json", "--set", "tail=odd"], 2, "Unknown tail"),
    (["heads", "find", "--output", "{tmp}/x.json", "--method", "random", "--metric", "mass"], 2, "no switch 'metric'"),
    (
        ["heads", "find", "--output", "{tmp}/x.json", "--method", "retrieval", "--examples", "{tmp}/schema.jsonl"],
        2,
        "line 1: the field 'statement' is missing",
    ),
    (
        ["heads", "find", "--output", "{tmp}/x.json", "--method", "ph3", "--examples", "{tmp}/schema.jsonl"],
        2,
        "line 1: the field 'question' is missing",
    ),
    (
        ["heads", "find", "--output", "{tmp}/x.json", "--method", "juice", "--examples", "{tmp}/missing"],
        2,
        "no file of conflicts",
    ),
    (["heads", "find", "--output", "{tmp}/x.json", "--method", "juice", "--set", "boost=-1"], 2, "boost is a gain"),
    (["heads", "find", "--output", "{tmp}/x.json", "--method", "ph3", "--set", "mode=odd"], 2, "path, total"),
    (["needle", "--lengths", "some"], 2, "numbers with commas"),
    (["needle", "--lengths", "256.5"], 2, "whole numbers"),
    (["needle", "--lengths", "256,256"], 2, "without repetitions"),
    (["needle", "--depths", "2"], 2, "between 0 and 1"),
    (["needle", "--needles", "{tmp}/missing"], 2, "no needle file"),
    (["needle", "--needles", "{tmp}/half.jsonl"], 2, "line 1: the field 'statement' is missing"),
    (["needle", "--haystack", "{tmp}/missing"], 2, "no file or folder"),
    (["needle", "--haystack", "{tmp}/binary.txt"], 2, "binary"),
    (["needle", "--plot", "{tmp}/x.gif"], 2, "not .gif"),
    (["needle", "--model", "{model}", "--lengths", "220"], 2, "does not fit a case"),
    (["needle", "--model", "{model}", "--lengths", "20000"], 2, "reads 8192"),
    (["needle", "--model", "{model}", "--lengths", "300", "--template", "odd"], 2, "Unknown template"),
    (["needle", "--model", "{model}", "--lengths", "3000", "--haystack", "{notes}"], 2, "give more text"),
    (["heads", "show", "{tmp}/missing"], 2, "missing"),
    ([*MASK, "--heads", "9-9"], 2, "9-9 is not in this model"),
    ([*MASK, "--heads", "0-0", "--k", "2"], 2, "top 2 is not known"),
    ([*MASK, "--heads", "0-0", "--k", "99"], 2, "K is 99"),
    ([*MASK, "--heads", "0-0", "--k", "0"], 2, "from 1 on"),
    ([*MASK, "--heads", "0-0", "--versus", "{tmp}/missing.json"], 2, "missing.json"),
    ([*MASK, "--k", "two"], 2, "--k takes numbers"),
    ([*MASK, "--k", "1.5"], 2, "whole numbers such as"),
    ([*MASK, "--task", "nothing"], 2, "There is no task"),
    ([*MASK, "--task", "perplexity"], 2, "give --data"),
    ([*MASK, "--task", "world-ranking"], 2, "a task of ranking"),
    ([*MASK, "--task", "perplexity:{notes}/algeria.txt", "--phase", "decode"], 2, "generates nothing"),
    ([*MASK, "--plot", "{tmp}/map.gif"], 2, "Pictures are written as"),
    ([*MASK, "--reference", "{notes}"], 2, "--reference goes with"),
    ([*MASK, "--mode", "batch_mean"], 2, ""),
    (["heads", "show", "{tmp}/bad.jsonl"], 2, "not JSON"),
    (["heads", "compare", "{tmp}/set.json"], 2, "at least two head sets"),
    (["heads", "compare", "{tmp}/set.json", "{tmp}/missing.json"], 2, "missing.json"),
    (["heads", "compare", "{tmp}/set.json", "5-5", "--shape", "3x4"], 2, "5-5 holds the head 5-5"),
    (["heads", "compare", "{tmp}/set.json", "0-1", "--shape", "many"], 2, "write for example 32x32"),
    (["heads", "compare", "{tmp}/set.json", "0-1", "--top-k", "2"], 2, "lists 1 heads"),
    (["heads", "compare", "{tmp}/set.json", "0-1", "--top-k", "0"], 2, ""),
    (["heads", "compare", "{tmp}/set.json", "0-1", "--plot", "{tmp}/m.png"], 2, "say --shape"),
    (["heads", "compare", "{tmp}/set.json", "0-1", "--shape", "3x4", "--plot", "{tmp}/m.gif"], 2, "Pictures are"),
    (["heads", "compare", "{tmp}/set.json", "{tmp}/full_attention_heads.tsv"], 2, "--query-heads"),
    (["heads", "compare", *(f"llama-3.{n}-instruct/qr-nq" for n in ("1-8b", "2-3b"))], 2, "of one of 28 x 24"),
    (["heads", "stability", "--method", "odd"], 2, "no detector 'odd'"),
    (["heads", "stability", "--examples", "{tmp}/missing"], 2, "no examples file"),
    (["heads", "stability", "--model", "{model}", "--examples", "{tmp}/one.jsonl"], 2, "about one thing"),
    (["heads", "stability", "--model", "{model}", "--method", "random", "--seeds", "1"], 2, "no samples"),
    (["heads", "stability", "--plot", "{tmp}/c.gif"], 2, "Pictures are"),
    (["heads", "explore", "q"], 2, "Give documents"),
    (["heads", "explore", " ", "--docs", "{notes}"], 2, "blank"),
    (["heads", "explore", "q", "--docs", "{notes}", "--gold", "nothing.txt"], 2, "nothing.txt"),
    (["heads", "explore", "q", "--docs", "{notes}", "--output", "{tmp}"], 2, "is a folder"),
    (
        ["heads", "explore", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "9-9", "-o", "{tmp}/x.html"],
        2,
        "9",
    ),
    (["heads", "explore", "q", "--docs", "{tmp}/long.txt", "--model", "{model}", "--heads", "0-0"], 2, "8,192"),
    (["pear", "fit", "--output", "{tmp}", "--model", "{model}"], 2, "is a folder"),
    (["pear", "fit", "--output", "{tmp}/x.json", "--heads", "{tmp}/missing.json"], 2, "missing.json"),
    (["pear", "fit", "--output", "{tmp}/x.json", "--select", "odd"], 2, "Unknown select"),
    (["pear", "fit", "--output", "{tmp}/x.json", "--preset", "odd"], 2, "Unknown preset"),
    (["pear", "fit", "--output", "{tmp}/x.json", "--model", "{model}"], 1, "copies"),
    (["pear", "fold", "--heads", "{tmp}/missing.json", "--output", "{tmp}/f"], 2, "missing.json"),
    (["pear", "fold", "--heads", "{tmp}/set.json", "--output", "{tmp}/empty"], 2, "no coefficients"),
    (["pear", "fold", "--heads", "{tmp}/set.json", "--output", "{notes}"], 2, "is there already"),
    (["pear", "check", "--heads", "{tmp}/set.json", "--model", "{model}"], 2, "--base"),
    (["pear", "check", "--heads", "{tmp}/set.json", "--model", "{model}", "--base", "{model}"], 2, "no coefficients"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "odd"], 2, ""),
    (["eval", "run", "--output", "{tmp}/run"], 2, "Say what to run"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "main", "--task", "dl19"], 2, "Say what to run"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "nothing"], 2, "There is no task"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "dl19"], 2, "give --data"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "dl19", "--data", "{tmp}/nowhere"], 2, "no data folder"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "world-ranking", "--method", "odd"], 2, "There is no method"),
    (
        ["eval", "run", "--output", "{tmp}/run", "--task", "world-ranking", "--method", "read"],
        2,
        "can do world-ranking",
    ),
    (["eval", "run", "--output", "{tmp}/run", "--task", "world-ranking", "--method", "dense"], 2, "written dense:ID"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "rerank:{tmp}/nowhere", "--method", "bm25"], 2, "BEIR folder"),
    (["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/missing.yaml"], 2, "no configuration"),
    (["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/bad.jsonl"], 2, ""),
    (
        ["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/x.yaml", "--limit", "3"],
        2,
        "--limit goes with --task",
    ),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "main", "--scorer", "tiny"], 2, "goes with --suite long"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "dl19", "--scorer", "tiny"], 2, "goes with --suite long"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "pear", "--questions", "1"], 2, ""),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "pear", "--model", "{model}"], 1, "copies"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "parenting", "--top-k", "4"], 2, "leave --top-k out"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "parenting", "--questions", "1"], 2, ""),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "main", "--method", "qr"], 2, "--method goes with --task"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "main", "--data", "{tmp}"], 2, "--data goes with --task"),
    (
        ["eval", "run", "--suite", "heads", "--output", "{tmp}/run", "--data", "{tmp}/missing", "--model", "{model}"],
        2,
        "no data folder",
    ),
    (["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/x.yaml", "--model", "m"], 2, "write it into the file"),
    (["eval", "report", "{tmp}"], 2, "summary.json"),
    (
        ["eval", "run", "--suite", "main", "--output", "{tmp}/run", "--page", "{tmp}/missing.md"],
        2,
        "Cannot read the page",
    ),
    (
        ["eval", "run", "--suite", "main", "--output", "{tmp}/run", "--page", "{tmp}/binary.txt"],
        2,
        "no place for tables",
    ),
    (
        ["eval", "run", "--suite", "main", "--output", "{tmp}/bad.jsonl", "--model", "{model}"],
        2,
        "Cannot use the folder",
    ),
    (["demo", "--output", "{tmp}/bad.jsonl", "--model", "{model}"], 2, "Cannot use the folder"),
    (["demo", "--output", "{tmp}/out", "--questions", "1"], 2, ""),
    (["demo", "--output", "{tmp}/out", "--questions", "99999", "--model", "{model}"], 2, "asked for 99999"),
    (["nonsense"], 2, ""),
    # files that do not hold what their type promises
    ([*RANK, "{tmp}/empty.txt"], 2, "holds no documents"),
    ([*RANK, "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*RANK, "{tmp}/schema.jsonl"], 2, "'text' is missing"),
    ([*RANK, "{tmp}/twice.jsonl"], 2, "'a' stands twice"),
    ([*RANK, "{tmp}/utf16.txt"], 2, "utf-16"),
    ([*RANK, "{tmp}/a.docx"], 2, "type '.docx'"),
    ([*RANK, "{tmp}/bad.csv"], 2, "no column is called text"),
    ([*RANK, "{tmp}/bad.pdf"], 2, "not a readable PDF"),
    ([*ASK, "{tmp}/empty.txt"], 2, "holds no documents"),
    ([*ASK, "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*ASK, "{tmp}/twice.jsonl"], 2, "'a' stands twice"),
    ([*ASK, "{tmp}/missing"], 2, "no file or folder"),
    ([*ASK, "{tmp}/bad.pdf"], 2, "not a readable PDF"),
    ([*ASK, "{tmp}/binary.txt"], 2, "binary"),
    ([*ASK, "{notes}", "--index", "{notes}"], 2, "not an index, and not empty"),
    ([*ASK, "{notes}", "--index", "{tmp}/half.jsonl"], 2, "Cannot make an index"),
    ([*ASK, "{notes}", "--support", "2"], 2, ""),
    ([*ASK, "{notes}", "--ranker-model", "{tmp}/missing"], 1, "Could not load"),
    (["ask", "q", "--model", "{model}", "--heads", "all", "--index", "{tmp}/damaged"], 2, "does not describe an index"),
    (["ask", "q", "--docs", "{notes}", "--model", "{model}", "--no-detect"], 2, "No heads are known"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--no-detect"], 2, "No heads are known"),
    (["ask", "q", "--model", "{model}", "--heads", "all", "--index", "{tmp}/typo"], 2, "There is no index"),
    ([*RANK, "{notes}", "--output", "{tmp}/out.trec"], 2, "belong to a TREC run"),
    ([*RANK[:4], "--heads", "{tmp}/deep.yaml", "--docs", "{notes}"], 2, "not valid YAML"),
    ([*RANK[:4], "--heads", "{tmp}/huge.json", "--docs", "{notes}"], 2, "no model has so many"),
    # an index
    ([*ADD, "{tmp}/missing"], 2, "no file or folder"),
    ([*ADD, "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*ADD, "{tmp}/a.docx"], 2, "type '.docx'"),
    ([*ADD, "{notes}", "--passage-chars", "0"], 2, ""),
    (["index", "add", "{notes}"], 2, ""),
    (["index", "add", "{notes}", "--index", "{tmp}/damaged"], 2, "does not describe an index"),
    (["index", "search", " ", "--index", "{tmp}/good"], 2, "blank"),
    (["index", "search", "x", "--index", "{tmp}/missing"], 2, "There is no index"),
    (["index", "search", "x", "--index", "{notes}"], 2, "There is no index"),
    (["index", "info", "--index", "{tmp}/missing"], 2, "There is no index"),
    (["index", "delete", "x", "--index", "{tmp}/missing"], 2, "There is no index"),
    ([*ADD, "{notes}", "--embed", "{tmp}/missing"], 1, "Could not load"),
    (["index", "search", "x", "--index", "{tmp}/good", "--mode", "odd"], 2, "Unknown mode"),
    (["index", "search", "x", "--index", "{tmp}/good", "--mode", "dense"], 2, "has no vectors"),
    (["index", "vectors", "--index", "{tmp}/good", "--kind", "hnsw"], 2, "has no vectors"),
    ([*ASK, "{notes}", "--retrieve", "odd"], 2, "use bm25, dense or hybrid"),
    ([*ASK, "{notes}", "--embedder", "tiny"], 2, "goes with --retrieve"),
    ([*ASK, "{notes}", "--retrieve", "dense", "--embedder", "{tmp}/missing"], 1, "Could not load"),
    # vectors and a retriever
    ([*EMBED], 2, "Give either documents"),
    ([*EMBED, "--docs", "{notes}", "--queries", "{tmp}/queries.tsv"], 2, "Give either documents"),
    ([*EMBED, "--docs", "{tmp}/missing"], 2, "no file or folder"),
    ([*EMBED, "--docs", "{notes}", "--dimension", "33"], 2, "between 1 and 32"),
    ([*EMBED, "--docs", "{notes}", "--model", "{tmp}/missing"], 1, "Could not load"),
    (["embed", "--docs", "{notes}", "--output", "{notes}", "--model", "{model}"], 2, "not empty"),
    ([*MINE_NEGATIVES, "--examples", "{tmp}/missing"], 2, "no examples file"),
    ([*MINE_NEGATIVES, "--examples", "{tmp}/bad.jsonl"], 2, "line 1"),
    ([*MINE_NEGATIVES, "--examples", "{tmp}/no-gold.jsonl"], 2, "nothing to mine for"),
    ([*MINE_NEGATIVES, "--examples", "{tmp}/gold.jsonl", "--data", "{notes}"], 2, "not both"),
    ([*MINE_NEGATIVES, "--data", "{notes}"], 2, "not a BEIR folder"),
    ([*MINE_NEGATIVES, "--source", "odd"], 2, "Unknown source"),
    ([*MINE_NEGATIVES, "--examples", "{tmp}/gold.jsonl", "--exclude", "{tmp}/missing"], 2, "Cannot read"),
    ([*RETRIEVER, "--examples", "{tmp}/missing"], 2, "no examples file"),
    ([*RETRIEVER, "--examples", "{tmp}/bad.jsonl"], 2, "line 1"),
    ([*RETRIEVER, "--examples", "{tmp}/no-gold.jsonl"], 2, "nothing to train on"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--negatives", "9"], 2, "mine more"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--distill", "0.5"], 2, "needs a teacher"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--dimensions", "1.5"], 2, "whole numbers"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--dimensions", "inf"], 2, "whole numbers"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--max-length", "100"], 2, "go up to max_length"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--development", "{tmp}/no-gold.jsonl"], 2, "No development"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--temperature", "0"], 2, "temperature must be above 0"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--pair", "odd"], 2, "pair names the roles"),
    ([*RETRIEVER, "--examples", "{tmp}/gold.jsonl", "--query-tokens", "2"], 2, "no room for a text"),
    # a TREC run
    ([*RUN, "--run", "{tmp}/run.trec"], 2, "needs --docs"),
    ([*RUN, "q", *FILES], 2, "but no query"),
    ([*RUN, "--run", "{tmp}/missing", *FILES[2:]], 2, "no run file"),
    ([*RUN, "--run", "{tmp}/half.jsonl", *FILES[2:]], 2, "expected six fields"),
    ([*RUN, "--run", "{tmp}/nan.trec", *FILES[2:]], 2, "'nan' is not a number"),
    ([*RUN, "--run", "{tmp}/twice.trec", *FILES[2:]], 2, "stands twice"),
    ([*RUN, "--run", "{tmp}/empty.txt", *FILES[2:]], 2, "holds no ranking"),
    ([*RUN, "--run", "{tmp}/q9.trec", *FILES[2:]], 2, "query 'q9'"),
    ([*RUN, "--run", "{tmp}/d9.trec", *FILES[2:]], 2, "document 'd9'"),
    ([*RUN, *FILES[:2], "--queries", "{tmp}/missing", *FILES[4:]], 2, "no query file"),
    ([*RUN, *FILES[:2], "--queries", "{tmp}/nan.trec", *FILES[4:]], 2, "an id, a tab and a query"),
    ([*RUN[:-1], "{tmp}", *FILES], 2, "is a folder"),
    # models
    ([*RANK[:3], "{tmp}/truncated", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/no-weights", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/no-config", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/other", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/no-tokenizer", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "some-gated/model", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{notes}/algeria.txt", "--docs", "{notes}"], 1, "Could not load"),
    # head sets
    ([*RANK[:4], "--heads", "llama-9/qr-nq", "--docs", "{notes}"], 2, "no published head set"),
    ([*RANK[:4], "--heads", "llama-3.1-8b-instruct/qr-nq", "--docs", "{notes}"], 2, "for a model of 32 layers"),
    ([*RANK[:4], "--heads", "{tmp}/bad.yaml", "--docs", "{notes}"], 2, "'attn_head_set' is missing"),
    ([*RANK[:4], "--heads", "{tmp}/half.jsonl", "--docs", "{notes}"], 2, "not JSON"),
    ([*RANK[:4], "--heads", "{tmp}/scores.json", "--docs", "{notes}"], 2, "not a file of retrieval scores"),
    (["heads", "show", "{tmp}/full_attention_heads.tsv"], 2, "--query-heads"),
    (["heads", "show", "{tmp}/full_attention_heads.tsv", "--query-heads", "3"], 2, "3 query heads cannot share"),
    (["heads", "show", "{tmp}/empty.txt", "--query-heads", "4"], 2, "not a table"),
    (["heads", "show", "{tmp}/empty"], 2, "Cannot read"),
]


@pytest.fixture
def faults(tmp_path: Path, notes: Path, model_folder: str) -> Path:
    """A folder of everything that can be wrong."""
    texts = {
        "bad.jsonl": '{"text": "x"}\n{"text": ',
        "half.jsonl": '{"text": "x"}\n{"text": ',
        "schema.jsonl": '{"body": "x"}',
        "twice.jsonl": '{"text": "x", "id": "a"}\n{"text": "y", "id": "a"}',
        "gold.jsonl": '{"query": "q", "documents": ["a b", "c d"], "relevant": [0]}',
        "no-gold.jsonl": '{"query": "q", "documents": ["a b", "c d"], "relevant": []}',
        "long.txt": "word " * 4000,
        "empty.txt": " \n",
        "a.docx": "PK",
        "bad.csv": "id,words\n1,x\n",
        "bad.pdf": "%PDF-1.7\nnonsense",
        "bad.yaml": "heads: 1-2",
        "deep.yaml": "[" * 20_000,
        "huge.json": '{"999999999-999999999": [1]}',
        "scores.json": '{"1-2": "high"}',
        "full_attention_heads.tsv": "0.1\t0.9\n0.2\t0.3\n",
        "queries.tsv": "q1\twhich one?\n",
        "corpus.jsonl": '{"text": "one", "id": "d1"}\n{"text": "two", "id": "d2"}\n',
        "run.trec": "q1 Q0 d1 1 2.5 bm25\nq1 Q0 d2 2 1.5 bm25\n",
        "nan.trec": "q1 Q0 d1 1 nan bm25\n",
        "twice.trec": "q1 Q0 d1 1 2 bm25\nq1 Q0 d1 2 1 bm25\n",
        "q9.trec": "q9 Q0 d1 1 2.5 bm25\n",
        "d9.trec": "q1 Q0 d9 1 2.5 bm25\n",
        "one.jsonl": '{"query": "q", "documents": ["a b", "c d"], "relevant": [0]}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    HeadSet([(0, 0)]).save(tmp_path / "set.json")
    (tmp_path / "binary.txt").write_bytes(b"a\x00b")
    (tmp_path / "utf16.txt").write_bytes(b"\xff\xfeabc")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "index.json").write_text("{")
    for name in ("truncated", "no-weights", "no-config", "other", "no-tokenizer"):
        shutil.copytree(model_folder, tmp_path / name)
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    (tmp_path / "no-weights" / "model.safetensors").unlink()
    (tmp_path / "no-config" / "config.json").write_text("{")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "unheard-of"}')
    for path in (tmp_path / "no-tokenizer").glob("*token*"):
        path.unlink()
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "/cache/" not in str(p)}


def test_there_are_enough_cases() -> None:
    assert len(BAD) >= 60


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=lambda value: str(value)[:70])
def test_bad_input(
    call: Any,
    faults: Path,
    notes: Path,
    model_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = snapshot(faults)
    words = [a.format(tmp=faults, notes=notes, model=model_folder) for a in arguments]
    if f"{faults}/good" in words:
        assert call("index", "add", notes, "--index", f"{faults}/good").exit_code == 0
        before = snapshot(faults)
    result = call(*words)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if message:
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("Error: ")
        assert len(last) < 700
    after = snapshot(faults)
    assert before == {name: after.get(name) for name in before}, "no input is touched"
    assert not [name for name in after if name.endswith(("/out.trec", "/x.json"))], "nothing is half-written"


def test_a_full_disk(call: Any, tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    examples = tmp_path / "e.jsonl"
    examples.write_text(json.dumps({"query": "q", "documents": ["a b", "c d"], "relevant": [0]}))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    output = tmp_path / "out" / "x.json"
    result = call("heads", "find", "--model", model_folder, "--examples", examples, "--output", output)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written(call: Any, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("index", "add", notes, "--index", "/proc/no/such")
    assert result.exit_code == 2
    assert "Cannot make an index" in result.stderr


RECORDS = st.dictionaries(
    st.sampled_from(["text", "id", "_id", "title", "query"]), st.none() | st.integers() | st.text(max_size=20)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    raw=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(RECORDS).map(lambda records: "\n".join(map(json.dumps, records)).encode()),
    )
)  # fmt: skip
def test_parsers_give_documents_or_one_sentence(tmp_path: Path, raw: bytes) -> None:
    """Whatever the bytes, a reader returns or raises a `HeadwaterError`."""
    for suffix in READERS:
        path = tmp_path / f"file{suffix}"
        path.write_bytes(raw)
        with suppress(HeadwaterError):
            for document in read_documents(path).documents:
                document.text.encode()
    path = tmp_path / "file"
    path.write_bytes(raw)
    shutil.copyfile(path, tmp_path / "queries.jsonl")
    (tmp_path / "qrels").mkdir(exist_ok=True)
    shutil.copyfile(path, tmp_path / "qrels" / "test.tsv")
    (tmp_path / "corpus.jsonl").write_text('{"text": "x", "_id": "d"}')
    readers: list[Any] = [read_examples, read_queries, read_run, HeadSet.load, lambda p: read_duo_attention(p, 4)]
    readers += [lambda p: read_beir(p.parent), lambda p: parse_lines(p.read_text("latin-1"))]
    for name in ("file", "file.jsonl", "file.yaml"):
        (tmp_path / name).write_bytes(raw)
        for reader in readers:
            with suppress(HeadwaterError):
                reader(tmp_path / name)
