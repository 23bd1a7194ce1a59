"""Prompts built from token pieces whose spans are recorded while building."""

from headwater.prompt.prompt import ANSWER, RANK, Prefix, PromptTemplate, Tail, prompt_template

__all__ = ["ANSWER", "RANK", "Prefix", "PromptTemplate", "Tail", "prompt_template"]
