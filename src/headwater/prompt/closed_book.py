"""A question without documents: the one prompt that probing and training share (parenting.md 3.1.1)."""

from __future__ import annotations

from dataclasses import replace

from headwater.prompt.prompt import CUE, PromptTemplate

SHORT = "Answer the following question with a short phrase, or say that you do not know."


def closed_book(template: PromptTemplate, instruction: str = "auto") -> tuple[PromptTemplate, bool]:
    """The prompt of questions without documents, and whether it holds an instruction.

    Args:
        template: of questions with documents.
        instruction: a sentence before the question. "auto": `SHORT` for chat models, none for models whose template
            marks no turns (base models, the embedded model); "" for none.
    """
    text = (SHORT if _marks_turns(template) else "") if instruction == "auto" else instruction.strip()
    return (replace(template, instruction=text), True) if text else (template, False)


def _marks_turns(template: PromptTemplate) -> bool:
    """Whether a chat template puts more around a question than a begin token and the cue of base models."""
    begin = template.tokenizer.bos_token_id
    around = [token for token in (*template.header, *template.suffix) if token != begin]
    return template.name == "chat" and around not in ([], template.encode(CUE))


def closed_book_ids(template: PromptTemplate, question: str, instruction: str = "auto") -> list[int]:
    """Token ids of a question without documents.

    Raises:
        InputError: a blank question.
    """
    own, instructed = closed_book(template, instruction)
    return [*own.header, *own.tail(question)] if instructed else own.alone(question)
