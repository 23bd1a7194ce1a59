"""The one prompt that ranking, detection and reading share (qrhead.md 3.1).

    <header> Here are some paragraphs:

    [1] title
    text

    [2] ...

    <instruction>

    Query: <query><suffix>

Header and suffix are what the tokenizer's chat template puts around a user turn. Every piece is tokenised on its own
and the ids are concatenated, so pieces never merge and spans are known while building; nothing is ever searched for in
the finished prompt. Document and query texts never yield special tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from headwater.data.documents import Document, check_query, check_text
from headwater.errors import InputError, ModelError

RANK = "Please find information that are relevant to the following query in the paragraphs above."
ANSWER = "Please answer the following question based on the information in the paragraphs above."
INSTRUCTIONS = {"rank": RANK, "answer": ANSWER}
TEMPLATES = ("auto", "chat", "base", "bare")
INTRO = " Here are some paragraphs:"
CUE = "\nAnswer:"  # of an answer, where no chat template opens the assistant's turn
_SENTINEL = "HEADWATER-USER-TURN"
_RELEASED = (  # a token that marks the family, what stands before the user's text, and after it
    (
        "<|start_header_id|>",
        "<|start_header_id|>user<|end_header_id|>",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
    ),
    ("<|im_sep|>", "<|im_start|>user<|im_sep|>", "<|im_end|><|im_start|>assistant<|im_sep|>"),
    (
        "<|start_of_role|>",
        "<|start_of_role|>user<|end_of_role|>",
        "<|end_of_text|><|start_of_role|>assistant<|end_of_role|>",
    ),
    ("<|im_start|>", "<|im_start|>user", "<|im_end|>\n<|im_start|>assistant"),
    ("[INST]", "[INST]", "[/INST]"),
)
# Templates that print today's date print this one: heads and scores must not change overnight.
_DATE = "26 Jul 2024"
_STILL = "{%- macro strftime_now(format) -%}" + _DATE + "{%- endmacro -%}"


@dataclass(frozen=True)
class Prefix:
    """Everything before the instruction.

    Attributes:
        ids: token ids, from the header to the separator before the instruction.
        spans: per document the half-open token span of `[i] title\\ntext`, in prompt order.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Tail:
    """Everything behind the documents.

    Attributes:
        ids: token ids of instruction, query and suffix.
        own: where the query's own part starts, behind `Query:`; what stands before it is the same for all queries.
        suffix: where the suffix starts.
    """

    ids: list[int]
    own: int
    suffix: int


@dataclass(frozen=True)
class PromptTemplate:
    """A tokenizer and what stands around the documents and the query. Built by `prompt_template`.

    Attributes:
        tokenizer: the model's tokenizer.
        name: "chat", "base" or "bare".
        instruction: the sentence between the documents and the query.
        header: token ids before the documents (begin token, user-turn opening).
        suffix: token ids after the query (end of turn, assistant opening).
        separator: text between pieces.
    """

    tokenizer: Any
    name: str
    instruction: str
    header: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: str

    def encode(self, text: str) -> list[int]:
        """Token ids of one piece; special-token strings in it are ordinary text.

        Where the tokenizer would put a space in front of a text, the piece is encoded behind an anchor, which is then
        dropped.
        """
        plain = self._plain
        if not self._anchored:
            return plain(text)
        anchor = plain("\n")
        ids = plain("\n" + text)
        if ids[: len(anchor)] != anchor:
            raise ModelError(f"This tokenizer merges across a line break; the piece {text[:40]!r} cannot be placed.")
        return ids[len(anchor) :]

    def piece(self, index: int, document: Document) -> str:
        """The text of the document at 0-based prompt position `index`: `[i] title\\ntext`, i from 1."""
        title, text = (document.title or "").strip(), document.text.strip()
        body = "\n".join(part for part in (title, text) if part)
        return f"[{index + 1}] {body}"

    def prefix(self, documents: Sequence[Document]) -> Prefix:
        """Header, introduction and documents, with one span per document."""
        separator = self.encode(self.separator)
        ids = [*self.header, *self.encode(INTRO)]
        spans = []
        for index, document in enumerate(documents):
            ids += separator
            start = len(ids)
            ids += self.encode(self.piece(index, document))
            spans.append((start, len(ids)))
        return Prefix(ids + separator, spans)

    def tail(self, query: str) -> list[int]:
        """Instruction, query and suffix.

        Raises:
            InputError: a blank query.
        """
        return self.parted_tail(check_query(query)).ids

    def parted_tail(self, query: str) -> Tail:
        """As `tail`, its parts told apart. An empty query is allowed here: it may be what calibration subtracts."""
        text = check_text(query, "The query").strip()
        shared = [token for piece in (self.instruction, self.separator, "Query:") for token in self.encode(piece)]
        own = self.encode(" " + text) if text else []
        return Tail([*shared, *own, *self.suffix], len(shared), len(shared) + len(own))

    def body_start(self, index: int, document: Document, *, title: bool) -> int:
        """How many tokens of the document's piece stand before its title, or (`title=False`) before its text.

        A token that holds the end of the label and the start of what follows belongs to what follows. Where there is a
        title only, it is the text.
        """
        heading, text = (document.title or "").strip(), document.text.strip()
        skipped = len(f"[{index + 1}] ")
        if not title and heading and text:
            skipped += len(heading) + 1
        first = done = 0
        for place, token in enumerate(self.token_texts(self.piece(index, document))):
            done += len(token)
            if done > skipped:
                break
            if token:
                first = place + 1
        return first

    def shortened(self, document: Document, tokens: int) -> Document:
        """The document with so many tokens of its text, at least a visible one; itself where it has no more."""
        texts, tokens = self.token_texts(document.text.strip()), max(1, tokens)
        if len(texts) <= tokens:
            return document
        least = next(place for place, text in enumerate(texts, 1) if text.strip())
        return replace(document, text="".join(texts[: max(least, tokens)]))

    def alone(self, query: str) -> list[int]:
        """Header, query and suffix: the query without documents, and so without an instruction that speaks of them.

        Raises:
            InputError: a blank query.
        """
        return [*self.header, *self.encode("Query:"), *self.encode(" " + check_query(query)), *self.suffix]

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with anything the prompt is made of besides documents and query."""
        parts = [self.name, self.instruction, list(self.header), list(self.suffix), self.separator, INTRO]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def token_texts(self, text: str) -> list[str]:
        """The text behind each token of `encode(text)`; joined, they are `text` again.

        A character that several tokens share belongs to the last of them.
        """
        shift = 1 if self._anchored else 0
        anchored = "\n" + text if shift else text
        encoded = self.tokenizer(
            anchored, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        drop = len(encoded["input_ids"]) - len(self.encode(text))
        texts, done = [], 0
        offsets = encoded["offset_mapping"][drop:]
        for position, (_, end) in enumerate(offsets):
            following = offsets[position + 1][0] if position + 1 < len(offsets) else len(anchored)
            stop = max(done, min(end, following) - shift)
            texts.append(text[done:stop])
            done = stop
        if texts:
            texts[-1] += text[done:]
        return texts

    def _plain(self, text: str) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])

    @cached_property
    def _anchored(self) -> bool:
        """Whether the tokenizer puts a space before a text (SentencePiece's dummy prefix)."""
        anchor, behind = self._plain("\n"), self._plain("\na")
        return behind[: len(anchor)] == anchor and behind[len(anchor) :] != self._plain("a")


def prompt_template(tokenizer: Any, template: str = "auto", instruction: str = "rank") -> PromptTemplate:
    """Work out what a tokenizer puts around one user turn.

    Args:
        tokenizer: a transformers tokenizer.
        template: "chat" (the tokenizer's chat template, thinking off where it knows the switch), "base" (begin token,
            no suffix; an answer is cued by a line "Answer:"), "auto" (chat where the tokenizer has a template), "bare"
            (role markers without line breaks, as in the released code of QRHead, ICR and CoRe: Llama 3, Qwen, Phi,
            Granite, Mistral).
        instruction: "rank" asks to find what is relevant, "answer" asks for the answer, or a sentence of your own.

    Raises:
        InputError: an unknown template, "chat" without a chat template, "bare" for another family.
        ModelError: a chat template that does not show the user's text.
    """
    if template not in TEMPLATES:
        raise InputError(f"Unknown template {template!r}; use one of {', '.join(TEMPLATES)}.")
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if template == "chat" and not has_chat:
        raise InputError("This tokenizer has no chat template; use template='base'.")
    sentence = INSTRUCTIONS.get(instruction, instruction)
    # Llama 3 merges a full stop and two line breaks into one token; the authors' prompt puts a space between them.
    separator = " \n\n" if "<|start_header_id|>" in tokenizer.get_vocab() else "\n\n"
    if template == "bare":
        return _bare(tokenizer, sentence, separator)
    if template == "base" or not has_chat:
        begin = tokenizer.bos_token_id
        bare = PromptTemplate(tokenizer, "base", sentence, () if begin is None else (begin,), (), separator)
        if sentence != ANSWER:
            return bare
        cue = tuple(bare.encode(CUE))
        return PromptTemplate(tokenizer, "base", sentence, bare.header, cue, separator)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _SENTINEL}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=_DATE,
        chat_template=_STILL + tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )
    before, found, after = rendered.partition(_SENTINEL)
    if not found:
        raise ModelError("The chat template of this tokenizer does not show the user's text; use template='base'.")
    header, suffix = (tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, after))
    return PromptTemplate(tokenizer, "chat", sentence, header, suffix, separator)


def _bare(tokenizer: Any, sentence: str, separator: str) -> PromptTemplate:
    """The layout of the released code (qrhead.md 3.1)."""
    known = f"{' '.join(tokenizer.get_vocab())} {tokenizer.chat_template or ''}"
    parts = next(((before, after) for marker, before, after in _RELEASED if marker in known), None)
    if parts is None:
        raise InputError(
            "template='bare' is the layout of the released code, which knows none for this tokenizer; use 'chat' or "
            "'base'."
        )
    begin = tokenizer.bos_token_id
    start = tokenizer("a")["input_ids"][:1] if begin is not None else []
    header, suffix = (tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in parts)
    return PromptTemplate(
        tokenizer, "bare", sentence, (begin, *header) if start == [begin] else header, suffix, separator
    )
