"""Write the published head sets that ship: python -m recipes.published --data FOLDER.

The lists are copied from the sources named here; the retrieval scores are means of the score files in
FOLDER/heads/retrieval_head_scores (nightdessert/Retrieval_Head).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from recipes.tiny.text import data_folder

TARGET = Path(__file__).parent.parent / "src" / "headwater" / "headset" / "published"
QRHEAD = {"method": "QRHead", "paper": "arXiv 2506.09944", "source": "princeton-pli/QRHead@7a668e7", "licence": "MIT"}
DYSCO = {
    "method": "QRHead",
    "paper": "arXiv 2506.09944",
    "source": "princeton-pli/DySCO@1f4e3a6",
    "licence": "not stated",
}
CORE = {
    "method": "CoRe",
    "paper": "arXiv 2510.02219",
    "source": "linhhtran/CoRe-Reranking@4d62a24",
    "licence": "none stated",
}
SCORES = {
    "method": "retrieval heads",
    "paper": "arXiv 2404.15574",
    "source": "nightdessert/Retrieval_Head@3ac171a",
    "licence": "none stated",
}
# model id, [layers, query heads, key/value heads]
MODELS: dict[str, tuple[str, list[int]]] = {
    "llama-3.1-8b-instruct": ("meta-llama/Llama-3.1-8B-Instruct", [32, 32, 8]),
    "llama-3.1-70b-instruct": ("meta-llama/Llama-3.1-70B-Instruct", [80, 64, 8]),
    "llama-3.2-3b-instruct": ("meta-llama/Llama-3.2-3B-Instruct", [28, 24, 8]),
    "llama-3.2-1b-instruct": ("meta-llama/Llama-3.2-1B-Instruct", [16, 32, 8]),
    "qwen2.5-7b-instruct": ("Qwen/Qwen2.5-7B-Instruct", [28, 28, 4]),
    "qwen3-8b": ("Qwen/Qwen3-8B", [36, 32, 8]),
    "qwen3-4b": ("Qwen/Qwen3-4B", [36, 32, 8]),
    "mistral-7b-instruct-v0.2": ("mistralai/Mistral-7B-Instruct-v0.2", [32, 32, 8]),
    "granite-3.2-8b-instruct": ("ibm-granite/granite-3.2-8b-instruct", [40, 32, 8]),
    "phi-4": ("microsoft/phi-4", [40, 40, 10]),
    "mistral-7b-v0.2": ("Mistral-7B-v0.2-hf", [32, 32, 8]),
    "mixtral-8x7b-v0.1": ("mistralai/Mixtral-8x7B-v0.1", [32, 32, 8]),
    "qwen1.5-14b-chat": ("Qwen/Qwen1.5-14B-Chat", [40, 40, 40]),
    "qwen1.5-14b": ("Qwen/Qwen1.5-14B", [40, 40, 40]),
    "yi-6b-200k": ("01-ai/Yi-6B-200K", [32, 32, 4]),
    "llama-2-13b-64k": ("yaofu/llama-2-13b-64k", [40, 40, 40]),
    "llama-2-7b-80k": ("yaofu/llama-2-7b-80k", [32, 32, 32]),
}
LISTS: list[tuple[str, str, str, dict[str, str], str]] = [
    ("llama-3.1-8b-instruct", "qr-lme", "LongMemEval", QRHEAD,
     "13-18 13-21 8-11 14-13 17-29 13-1 13-13 14-29 14-31 13-8 16-1 17-21 13-3 10-31 13-4 14-22"),
    ("llama-3.1-8b-instruct", "qr-nq", "NQ", QRHEAD,
     "14-22 13-16 14-28 14-31 16-19 14-1 16-26 17-24 14-0 13-0 16-25 13-12 13-1 13-10 17-27 20-14"),
    ("llama-3.1-8b-instruct", "qr-dysco", "DySCO", DYSCO,
     "17-24 14-31 17-26 16-19 16-25 13-1 14-22 13-16 14-20 14-3 14-1 17-27 16-26 17-21 16-27 19-3"),
    ("llama-3.1-8b-instruct", "core", "NQ", CORE,
     "13-18 13-1 14-13 13-21 14-31 13-13 8-11 14-20 14-22 13-8 14-29 16-1 13-4 13-3 14-30 8-1"),
    ("llama-3.2-3b-instruct", "qr-lme", "LongMemEval", QRHEAD,
     "15-18 15-22 16-15 18-19 13-23 12-1 21-20 20-11 18-11 18-18 13-16 16-16 18-15 19-8 15-17 17-2"),
    ("llama-3.2-3b-instruct", "qr-nq", "NQ", QRHEAD,
     "13-16 12-12 13-23 13-21 15-18 12-3 21-20 12-1 13-2 13-1 12-6 12-11 13-0 15-22 18-19 18-11"),
    ("llama-3.2-1b-instruct", "qr-nq", "NQ", QRHEAD,
     "8-21 8-14 7-22 6-31 8-28 10-26 10-0 5-5 8-3 6-30 8-0 7-26 7-25 7-23 11-4 8-20"),
    ("qwen2.5-7b-instruct", "qr-nq", "NQ", QRHEAD,
     "16-19 16-2 16-20 16-14 16-0 15-24 16-18 17-18 16-1 19-18 19-19 18-16 16-17 19-25 19-17 20-21"),
    ("qwen3-8b", "qr-dysco", "DySCO", DYSCO,
     "21-31 21-18 20-15 22-4 21-11 20-16 21-17 19-13 21-10 21-8 18-5 20-14 19-14 24-13 17-4 19-28"),
    ("qwen3-4b", "qr-dysco", "DySCO", DYSCO,
     "20-15 21-18 21-31 22-4 21-11 24-29 21-10 20-16 21-8 21-17 23-30 20-14 20-13 24-13 20-4 18-19"),
    ("mistral-7b-instruct-v0.2", "core", "NQ", CORE,
     "15-21 15-1 16-12 15-7 9-26 12-11 12-7 18-0 15-26 19-9 7-18 16-22 15-27 15-8 14-24 18-22"),
    ("granite-3.2-8b-instruct", "core", "NQ", CORE,
     "19-1 17-20 19-19 34-28 17-25 17-7 19-4 19-31 32-11 16-31 36-23 35-19 35-22 17-2 14-28 34-26"),
    ("phi-4", "core", "NQ", CORE,
     "17-1 23-1 19-5 19-29 19-34 19-0 18-6 19-7 14-33 21-0 26-29 20-19 18-30 25-14 17-7 18-4"),
    ("llama-3.1-70b-instruct", "qr-lme", "LongMemEval", QRHEAD,
     "35-17 35-27 31-33 35-7 35-43 35-20 33-16 31-38 35-40 35-25 53-1 35-19 35-24 23-42 21-39 52-58 "
     "28-45 39-43 17-61 14-21 33-18 36-52 35-47 71-6 27-21 29-55 35-23 38-48 35-28 39-41 35-21 38-55"),
    ("llama-3.1-70b-instruct", "qr-nq", "NQ", QRHEAD,
     "31-32 35-26 35-25 35-21 39-41 35-29 38-18 37-9 52-19 35-6 47-18 52-58 35-24 35-28 37-29 35-40 "
     "37-25 39-40 34-1 31-39 37-24 35-23 31-37 35-20 33-18 35-50 64-31 35-42 37-28 47-17 35-19 35-3"),
]  # fmt: skip
SCORE_FILES = {
    "mistral-7b-v0.2": "Mistral-7B-v0.2-hf",
    "mixtral-8x7b-v0.1": "Mixtral-8x7B-v0.1",
    "qwen1.5-14b-chat": "Qwen1.5-14B-Chat",
    "qwen1.5-14b": "Qwen1.5-14B",
    "yi-6b-200k": "Yi-6B-200K",
    "llama-2-13b-64k": "llama-2-13b-64k",
    "llama-2-7b-80k": "llama-2-7b-80k",
}


def _entry(model: str, kind: str, found_on: str, origin: dict[str, str]) -> dict[str, Any]:
    """What every published set says about itself."""
    name, shape = MODELS[model]
    return {"name": f"{model}/{kind}", "model": name, "shape": shape, "found_on": found_on, **origin}


def main() -> None:
    """Write lists.json and scores.json."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="folder of the raw data sets (default: HEADWATER_DATA)")
    data = data_folder(cli, cli.parse_args().data)
    lists = [{**_entry(*row[:4]), "heads": row[4]} for row in LISTS]
    scores = []
    for model, file in SCORE_FILES.items():
        raw = json.loads((data / "heads" / "retrieval_head_scores" / f"{file}.json").read_text(encoding="utf-8"))
        layers, heads, _ = MODELS[model][1]
        mean = [[round(sum(raw[f"{i}-{j}"]) / len(raw[f"{i}-{j}"]), 4) for j in range(heads)] for i in range(layers)]
        entry = _entry(model, "retrieval", "needle in a haystack", SCORES)
        scores.append({**entry, "tests": len(raw["0-0"]), "scores": mean})
    for name, entries in (("lists", lists), ("scores", scores)):
        text = ",\n".join(json.dumps(entry) for entry in entries)
        (TARGET / f"{name}.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
