"""Whether a model declines to answer."""

from __future__ import annotations

import re

from headwater.data.world.answers import normalise

_NOT = r"(?:do not|don't|cannot|can not|can't|could not|couldn't)"
# What models say instead of an answer. Whole words, anywhere in the first line of the answer.
_ABSTAINS = re.compile(
    r"\b(?:unanswerable|no answer|not (?:mentioned|provided|specified|stated|given|found|answerable|known)"
    r"|insufficient information"
    rf"|(?:i|we) {_NOT} (?:know|answer|find|tell|determine|say)"
    rf"|(?:i|we) {_NOT} have (?:\w+ ){{0,3}}(?:information|knowledge|data|details|answer)"
    r"|(?:i|we) have no (?:idea|clue|answer|information|knowledge|data)"
    r"|(?:i'm|i am|we're|we are) (?:really )?(?:not (?:sure|certain|aware|able)|unsure|uncertain|unaware|unable)"
    r"|(?:can|could) ?not be (?:answered|determined|found)"
    r"|(?:is|are|was|were|remains?) (?:\w+ )?(?:unknown|unclear|uncertain)"
    r"|(?:does|do|did) not (?:say|mention|state|provide|contain|specify|give))\b",
    re.IGNORECASE,
)
# The same as a whole answer: these words stand in names and titles too.
_ONLY = re.compile(
    r"(?:it's |the answer: )?(?:currently )?(?:unknown|unclear)"
    r"|(?:(?:do not|don't) know|not sure)(?: (?:it|this|that))?|(?:have )?no idea|dunno|n ?/ ?a",
    re.IGNORECASE,
)


def abstains(prediction: str) -> bool:
    """Whether a prediction declines to answer: nothing at all, or one of the usual ways to say so."""
    line = prediction.strip().split("\n")[0].replace("\u2019", "'")
    return not normalise(line) or bool(_ABSTAINS.search(line) or _ONLY.fullmatch(line.strip(" .,;:!?\"'()[]")))
