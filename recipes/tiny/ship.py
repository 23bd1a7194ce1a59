"""Put a trained model into the package: weights in bf16, tokenizer, its heads, and how sure it has to be.

python -m recipes.tiny.ship --model FOLDER

Heads are found on the built-in examples and the threshold of support is chosen on development countries, as
`hw.QRRetriever` and `headwater ask --calibrate` would do for any other model.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

import headwater as hw
from headwater.heads import QueryFocusedHeads
from headwater.model.lm import TINY
from headwater.read.support import choose, judge, save

QUESTIONS = 240  # about development countries, for the threshold


def main() -> None:
    """Save, find, calibrate."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", type=Path, required=True)
    args = cli.parse_args()
    model = hw.load(args.model, dtype="float32").model.to(torch.bfloat16)
    model.save_pretrained(TINY)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(args.model / name, TINY / name)
    for path in TINY.iterdir():
        path.chmod(0o644)
    for name in ("heads.json", "support.json"):  # those of the weights before
        (TINY / name).unlink(missing_ok=True)
    lm = hw.load("tiny")
    QueryFocusedHeads().find(lm).save(TINY / "heads.json")
    found = choose(judge(lm, "development", QUESTIONS))
    save(found, lm, TINY / "support.json")
    print(f"heads {hw.HeadSet.load(TINY / 'heads.json')}; support {found}")


if __name__ == "__main__":
    main()
