"""Training text without the unseen countries: facts of known countries, novels, and the byte-level BPE trained on them.

python -m recipes.tiny.text --data FOLDER --output FOLDER        # writes the tokenizer
"""

from __future__ import annotations

import argparse
import os
import random
import re
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from headwater.data import world

VOCABULARY = 4096
SPECIAL = ["<pad>", "<bos>", "<eos>"]
INTRO = " Here are some paragraphs:"
FIND = "Please find information that are relevant to the following query in the paragraphs above."
ANSWER = "Please answer the following question based on the information in the paragraphs above."
SUFFIX = "\nAnswer:"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAnswer:' }}{% endif %}"
)
NOVEL_CHARACTERS = 3_000_000


@cache
def unseen() -> re.Pattern[str]:
    """Matches every name and nationality of a development or held-out country."""
    names: set[str] = set()
    for country in world.countries("development") + world.countries("held_out"):
        facts = world.facts(country)
        names |= {country, facts.get("nationality", country), facts.get("capital", country)}
    names |= {"UK", "Great Britain", "England", "Ivory Coast", "Persia", "Saint George's"}
    return re.compile(r"\b(" + "|".join(re.escape(n) for n in sorted(names)) + r")\b", re.IGNORECASE)


@cache
def known_facts() -> dict[str, dict[str, str]]:
    """Facts of the known countries, without those that mention an unseen country."""
    kept = {c: {r: a for r, a in world.facts(c).items() if not unseen().search(a)} for c in world.countries("known")}
    return {c: f for c, f in kept.items() if not unseen().search(c)}


def novel_paragraphs(data: Path, characters: int = NOVEL_CHARACTERS, seed: int = 0) -> list[str]:
    """Paragraphs of the novels, in shuffled order, that mention no unseen country, up to so many characters."""
    draw = random.Random(seed)
    novels = _novels(data)
    per_file = characters // len(novels)
    out: list[str] = []
    for paragraphs in novels:
        draw.shuffle(paragraphs)
        taken = 0
        for paragraph in paragraphs:
            if taken > per_file:
                break
            out.append(paragraph)
            taken += len(paragraph)
    draw.shuffle(out)
    return out


def unread_paragraphs(data: Path, per_novel: int = 40) -> list[str]:
    """Paragraphs of the novels, in their order, that neither tokenizer nor words were made from."""
    read = set(novel_paragraphs(data))
    return [p for paragraphs in _novels(data) for p in [p for p in paragraphs if p not in read][:per_novel]]


def _novels(data: Path) -> list[list[str]]:
    """Per novel its paragraphs of 40 to 1,000 characters that mention no unseen country."""
    files = sorted((data / "text" / "100_english_novels").glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"no novels under {data}/text/100_english_novels")
    texts = [path.read_text(encoding="utf-8", errors="ignore").split("\n") for path in files]
    return [
        [p for p in (" ".join(line.split()) for line in text) if 40 < len(p) < 1000 and not unseen().search(p)]
        for text in texts
    ]


def novel_words(data: Path) -> list[str]:
    """Words of 3 to 12 letters that the novels use at least twice, in alphabetical order."""
    counts: dict[str, int] = {}
    for paragraph in novel_paragraphs(data):
        for word in re.findall(r"\b[A-Za-z][a-z]{2,11}\b", paragraph):
            counts[word.lower()] = counts.get(word.lower(), 0) + 1
    return sorted(word for word, n in counts.items() if n >= 2 and not unseen().search(word))


def build_tokenizer(
    data: Path, vocabulary: int = VOCABULARY, characters: int = NOVEL_CHARACTERS, context: int = 4096
) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which punctuation stands alone and every number of one to three digits is a token.

    Names of known countries count only a few times, so that they fall into pieces as unseen names do. A small
    vocabulary needs few `characters` of novels, or their words leave no room for those of the prompts (and some
    numbers become two tokens all the same).
    """
    corpus = list(novel_paragraphs(data, characters))
    for country, facts in known_facts().items():
        corpus += [f"is {answer}." for answer in facts.values()] + [country]
    fixed = [INTRO, "\n\n" + FIND + "\n\n", "\n\n" + ANSWER + "\n\n", "Query:", SUFFIX]
    for relation in world.RELATIONS.values():
        fixed += [relation.statement.format(c=""), " " + relation.statement.format(c="")]
        fixed += [relation.label, f" {relation.label}", f" {relation.label.lower()}"]
        fixed += [" " + w.format(c="") for w in relation.questions[:-1]]
    corpus += fixed * 200 + [str(n) for n in range(1000)] * 60 + [f"{n:02d} {n:03d}" for n in range(100)] * 60
    corpus += ["\n\n" + f"[{n}] " for n in range(1, 41)] * 30
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}|[^\w\s]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(SUFFIX, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        padding_side="left",
    )


def data_folder(cli: argparse.ArgumentParser, given: str | None) -> Path:
    """The raw-data folder from --data or HEADWATER_DATA, or an error that says so."""
    name = given or os.environ.get("HEADWATER_DATA")
    if not name or not (Path(name) / "text").is_dir():
        cli.error("name the folder of the raw data (it holds text/factbook and text/100_english_novels) with --data")
    return Path(name)


def main() -> None:
    """Train and save the tokenizer."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="folder of the raw data sets (default: HEADWATER_DATA)")
    cli.add_argument("--output", type=Path, required=True)
    args = cli.parse_args()
    build_tokenizer(data_folder(cli, args.data)).save_pretrained(args.output)


if __name__ == "__main__":
    main()
