"""Embedding prompts: what a text is asked to say, behind it (LLaRA, arXiv 2312.15503; llara.md 3.1).

    <prefix> <text> <tail>

The tail "summarize" asks for the text itself, "predict" for what follows it; the states at the tail's *slots*, its last
positions, make the embedding. Prefix, text and tail are tokenised on their own and the ids are concatenated, so a
prompt can be stored as ids and is the same in every version of a tokenizer. A text never yields special tokens.

    prompt = embedding_prompt(tokenizer)                # one slot, the end token
    ids = prompt.encode(["Lima is in Peru."], "document")
    pooled = [prompt.pooled(len(each), "document") for each in ids]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from headwater.data.documents import Document, check_text
from headwater.errors import FormatError, InputError
from headwater.model.adapter import EMBEDDER

Slots = Literal["single", "eight"]
Role = Literal["summarize", "predict", "mean"]
Kind = Literal["query", "document"]
MAX_LENGTH = 512
FILE = EMBEDDER  # its field "prompt" is what `as_dict` gives
_LETTERS: dict[str, Role] = {"s": "summarize", "n": "predict", "m": "mean"}
_WORDINGS: dict[tuple[str, str], dict[str, str]] = {
    ("single", "v2"): {"summarize": "The input sentence is:", "predict": "The next sentence is:"},
    ("single", "v1"): {"summarize": "The original sentence:", "predict": "The next sentence:"},
    ("eight", "v2"): {
        "summarize": '", summarize the above passage within eight words: ',
        "predict": '", predict the following passage within eight words: ',
    },
}
_FIRST = {"summarize": 1, "predict": 9}  # number of a tail's first slot token
_EIGHT = 8


def slot_names() -> list[str]:
    """The sixteen slot tokens `<s1>` to `<s16>` of the mode "eight", which a tokenizer has to know."""
    return [f"<s{number}>" for number in range(1, 2 * _EIGHT + 1)]


def passage_text(document: Document) -> str:
    """What is embedded of a document: its title on a line of its own, then its text."""
    return "\n".join(part for part in ((document.title or "").strip(), document.text.strip()) if part)


@dataclass(frozen=True)
class EmbeddingPrompt:
    """A tokenizer and what stands around a text that is to be embedded. Built by `embedding_prompt`.

    Attributes:
        tokenizer: the model's tokenizer.
        slots: "single" (the end token) or "eight" (eight added tokens).
        pair: roles of queries and documents: "n2s" (query predicts, document summarizes), "s2s", "n2n"; a letter "m"
            stands for no tail and the mean over the text's own tokens.
        max_length: tokens of a whole prompt.
        prefix: token ids before a text.
        tails: token ids behind it, by role; the last `slot_count` of them are the slots.
        texts: the tails as text, without what a tokenizer cannot write.
    """

    tokenizer: Any = field(repr=False, compare=False)
    slots: Slots
    pair: str
    max_length: int
    prefix: tuple[int, ...]
    tails: Mapping[str, tuple[int, ...]]
    texts: Mapping[str, str]

    @property
    def slot_count(self) -> int:
        """Slots of a tail: 1 or 8."""
        return 1 if self.slots == "single" else _EIGHT

    def role(self, kind: str) -> Role:
        """What a "query" or a "document" is asked; a role itself stands for itself.

        Raises:
            InputError: neither.
        """
        if kind in ("query", "document"):
            return _LETTERS[self.pair[0 if kind == "query" else -1]]
        found = next((role for role in _LETTERS.values() if role == kind), None)
        if found is None:
            raise InputError(f"Unknown kind {kind!r} of text; use query or document (or a role: summarize, predict).")
        return found

    def tail(self, kind: str) -> tuple[int, ...]:
        """Token ids behind a text of this kind (or role); none for "mean"."""
        role = self.role(kind)
        return () if role == "mean" else self.tails[role]

    def room(self, *kinds: str) -> int:
        """How many tokens of a text fit beside the prefix and these tails.

        Raises:
            InputError: not one.
        """
        used = len(self.prefix) + sum(len(self.tail(kind)) for kind in kinds)
        if self.max_length - used < 1:
            said = " and ".join(repr(kind) for kind in kinds) or "no tail"
            raise InputError(
                f"max_length {self.max_length} leaves no room for a text: prefix and tail ({said}) take {used} tokens; "
                f"use {used + 1} or more."
            )
        return self.max_length - used

    def text_ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of texts alone, stripped, not yet cut; special-token strings in them are ordinary text."""
        clean = [check_text(text, "A text to embed").strip() for text in texts]
        if not clean:
            return []
        encoded = self.tokenizer(clean, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def around(self, text_ids: Iterable[int], kind: str) -> list[int]:
        """Prefix, the text cut to its room, tail."""
        return [*self.prefix, *list(text_ids)[: self.room(kind)], *self.tail(kind)]

    def encode(self, texts: Iterable[str], kind: str) -> list[list[int]]:
        """Whole prompts, one per text, at most `max_length` tokens each; the tail is never cut.

        Args:
            texts: what to embed; see `passage_text` for documents with a title.
            kind: "query" or "document" (or a role).

        Raises:
            InputError: an unknown kind, a text that is no string, or no room for a text.
        """
        return [self.around(ids, kind) for ids in self.text_ids(texts)]

    def pooled(self, length: int, kind: str) -> range:
        """Places whose states make the embedding, in a prompt of so many tokens: its slots, or ("mean") its text."""
        if self.role(kind) == "mean":
            first = len(self.prefix)
            return range(first if first < length else 0, length)
        return range(length - self.slot_count, length)

    def slot_ids(self, kind: str) -> tuple[int, ...]:
        """Token ids that stand at the slots; none for "mean"."""
        return self.tail(kind)[-self.slot_count :]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tokenizer, ready for JSON."""
        return {
            "slots": self.slots,
            "pair": self.pair,
            "max_length": self.max_length,
            "prefix": list(self.prefix),
            "tails": {role: {"text": self.texts[role], "ids": list(ids)} for role, ids in self.tails.items()},
            "slot_tokens": slot_names() if self.slots == "eight" else [],
            "pooling": "mean of the slots, L2 norm",
        }

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with anything that `as_dict` gives."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def embedding_prompt(
    tokenizer: Any, slots: str = "single", wording: str = "v2", pair: str = "n2s", max_length: int = MAX_LENGTH
) -> EmbeddingPrompt:
    """Work out an embedding prompt for a tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        slots: "single": the paper's prompts, the end token is the slot. "eight": the released ones, eight added tokens.
        wording: of "single", "v2" (`The input sentence is:`) or "v1" (`The original sentence:`).
        pair: see `EmbeddingPrompt`.
        max_length: tokens of a whole prompt.

    Raises:
        InputError: an unknown switch, no end token, slot tokens that the tokenizer does not know, or no room.
    """
    words = _WORDINGS.get((slots, wording))
    if words is None:
        known = ", ".join(f"slots={first!r} with wording={second!r}" for first, second in _WORDINGS)
        raise InputError(f"There is no prompt with slots={slots!r} and wording={wording!r}; there are {known}.")
    check_pair(pair)
    single = slots == "single"
    lead = " " if single and not _own_blank(tokenizer) else ""
    texts = {role: lead + text for role, text in words.items()}
    tails = {
        role: (*_plain(tokenizer, text), *((_end(tokenizer),) if single else _slots(tokenizer, role)))
        for role, text in texts.items()
    }
    prefix = _begin(tokenizer) if single else (*_begin(tokenizer), *_plain(tokenizer, '"'))
    prompt = EmbeddingPrompt(tokenizer, "single" if single else "eight", pair, int(max_length), prefix, tails, texts)
    for role in tails:
        prompt.room(role)
    return prompt


def prompt_from_dict(tokenizer: Any, stored: Mapping[str, Any], where: str = FILE) -> EmbeddingPrompt:
    """The prompt that `as_dict` gave; the stored ids are used as they are.

    Raises:
        FormatError: a part is missing or damaged, an id is outside the vocabulary, or a slot token has another id.
    """
    try:
        tails = {str(role): tuple(int(i) for i in tail["ids"]) for role, tail in stored["tails"].items()}
        texts = {str(role): str(tail["text"]) for role, tail in stored["tails"].items()}
        prefix = tuple(int(i) for i in stored["prefix"])
        slots, pair, length = stored["slots"], check_pair(stored["pair"]), int(stored["max_length"])
        if slots not in ("single", "eight") or set(tails) != set(_FIRST):
            raise ValueError("unknown slots or tails")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where} holds no embedding prompt that can be read ({error!r}).") from error
    size = len(tokenizer)
    if any(not 0 <= i < size for ids in (prefix, *tails.values()) for i in ids):
        raise FormatError(f"{where}: the prompt has token ids outside this tokenizer's {size}; it is for another one.")
    prompt = EmbeddingPrompt(tokenizer, slots, pair, length, prefix, tails, texts)
    if slots == "eight" and any(prompt.slot_ids(role) != _slots(tokenizer, role) for role in tails):
        raise FormatError(f"{where}: the slot tokens have other ids in this tokenizer; it is for another one.")
    return prompt


def read_prompt(folder: str | Path, tokenizer: Any) -> EmbeddingPrompt | None:
    """The prompt beside the weights in a folder; None where there is no `headwater.json`.

    Raises:
        FormatError: the file is damaged, or for another tokenizer.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["prompt"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} cannot be read as the record of an embedder ({error!r}).") from error
    return prompt_from_dict(tokenizer, stored, str(path))


def check_pair(pair: Any) -> str:
    """A pair of roles such as "n2s".

    Raises:
        InputError: anything else.
    """
    if not (isinstance(pair, str) and len(pair) == 3 and pair[1] == "2" and {pair[0], pair[2]} <= set(_LETTERS)):
        raise InputError(
            f"pair names the roles of query and document, s (summarize), n (predict the next) or m (mean), such as "
            f"'n2s'; got {pair!r}."
        )
    return pair


def _plain(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def _own_blank(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a blank in front of a text (SentencePiece's dummy prefix)."""
    anchor, behind = _plain(tokenizer, "\n"), _plain(tokenizer, "\na")
    return behind[: len(anchor)] == anchor and behind[len(anchor) :] != _plain(tokenizer, "a")


def _begin(tokenizer: Any) -> tuple[int, ...]:
    """The begin token where the tokenizer itself puts one."""
    begin = tokenizer.bos_token_id
    own = begin is not None and list(tokenizer("a", verbose=False)["input_ids"])[:1] == [begin]
    return (int(begin),) if own else ()


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise InputError("This tokenizer has no end token, which is the slot of slots='single': set its eos_token.")
    return int(tokenizer.eos_token_id)


def _slots(tokenizer: Any, role: str) -> tuple[int, ...]:
    """Ids of a role's eight slot tokens, by name: their order in a vocabulary means nothing."""
    names = slot_names()[_FIRST[role] - 1 :][:_EIGHT]
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise InputError(
            f"This tokenizer does not know the slot tokens {', '.join(missing)}: use slots='single', or a model that "
            "was adapted with slots='eight'."
        )
    return tuple(int(vocabulary[name]) for name in names)
