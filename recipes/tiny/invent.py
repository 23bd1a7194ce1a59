"""Invented countries and values, so that the model has to match by content instead of remembering names."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from headwater.data import world
from recipes.tiny.text import known_facts, unseen

ONSETS = tuple("b br c ch cl d dr f fl g gr h j k kh kr l m n ng p pr qu r s sh sl st t th tr v w y z".split())  # noqa: SIM905
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "a", "ai", "au", "ea", "ia", "ie", "io", "oa", "ou", "ee")
CODAS = ("", "", "", "", "n", "r", "l", "s", "m", "k", "t", "nd", "rg", "st", "x")
ENDINGS = ("a", "ia", "land", "stan", "o", "ania", "burg", "us", "e", "ar", "and", "i", "y", "en", "ador", "ica")
BEFORE = tuple(
    "North South East West New Upper Lower Saint Great Central Isle Port Old French Northern Southern".split()  # noqa: SIM905
)
AFTER = ("Islands", "Island", "Republic", "Coast", "Territory", "Federation", "States", "Kingdom", "City")


class Inventor:
    """Draws invented country names and values. All randomness comes from the `random.Random` given to each call."""

    def __init__(self, words: list[str]) -> None:
        """Take the words of the novels; collect the values of the known countries by relation."""
        self.words = words
        self.values: dict[str, list[str]] = {name: [] for name in world.RELATIONS}
        for facts in known_facts().values():
            for relation, answer in facts.items():
                self.values[relation].append(answer)
        self.relations = list(self.values)
        self.real = list(known_facts())

    def syllables(self, draw: random.Random) -> str:
        """A made-up word, capitalised."""
        word = ""
        for _ in range(draw.choice((1, 1, 2, 2, 3))):
            word += draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS)
        if draw.random() < 0.5:
            word = word.rstrip("aeiou") + draw.choice(ENDINGS)
        return word.capitalize()

    def word(self, draw: random.Random) -> str:
        """A made-up word or one from the novels, capitalised."""
        return self.syllables(draw) if draw.random() < 0.6 else draw.choice(self.words).capitalize()

    def name(self, draw: random.Random) -> str:
        """The name of an invented country, of one to four words; never that of an unseen country."""
        while True:
            kind = draw.random()
            if kind < 0.55:
                name = self.word(draw)
            elif kind < 0.7:
                name = f"{draw.choice(BEFORE)} {self.word(draw)}"
            elif kind < 0.8:
                name = f"{self.word(draw)} {draw.choice(AFTER)}"
            elif kind < 0.9:
                name = f"{self.word(draw)} {self.word(draw)}"
            elif kind < 0.95:
                name = f"{self.word(draw)} and {self.word(draw)}"
            else:
                name = f"{self.word(draw)}-{self.word(draw)}"
            if not unseen().search(name):
                return name

    def look_alike(self, draw: random.Random, name: str) -> str:
        """A name that shares words or letters with another one."""
        words = name.split()
        place = draw.randrange(len(words))
        kind = draw.random()
        if kind < 0.35:
            other = f"{draw.choice(BEFORE)} {words[-1]}"
        elif kind < 0.6:
            other = " ".join([*words[:place], self.word(draw), *words[place + 1 :]]) if len(words) > 1 else name + "ia"
        else:
            stem = words[place][: max(2, len(words[place]) // 2)]
            other = " ".join([*words[:place], stem + draw.choice(ENDINGS), *words[place + 1 :]])
        return other if other != name and not unseen().search(other) else self.name(draw)

    def like_real(self, draw: random.Random) -> str:
        """A name made of parts of known countries' names, or like one of them; never a known or an unseen one."""
        while True:
            first, second = draw.sample(self.real, 2)
            if draw.random() < 0.5:
                name = self.look_alike(draw, first)
            else:
                *before, word = first.split()
                end = second.split()[-1]
                name = " ".join([*before, word[: max(2, len(word) // 2)] + end[len(end) // 2 :].lower()])
            if name not in self.real and not unseen().search(name):
                return name

    def names(self, draw: random.Random, count: int, real: float = 0.0) -> list[str]:
        """So many different names, a share `real` of them like real ones; in two of five draws they resemble others."""
        alike = draw.random() < 0.4
        out: list[str] = []
        while len(out) < count:
            if real and draw.random() < real:
                name = self.like_real(draw)
            else:
                name = self.look_alike(draw, draw.choice(out)) if out and alike else self.name(draw)
            if name not in out:
                out.append(name)
        return out

    def value(self, draw: random.Random, relation: str, name: str) -> str:
        """A value of the relation: a known country's, one with other digits or words, or made-up words."""
        real = draw.choice(self.values[relation])
        kind = draw.random()
        if relation == "official_name" and kind < 0.8:
            first = real.split(" of ")[0] if " of " in real else "Republic"
            return f"{first} of {name}"
        if relation == "nationality" and kind < 0.6:
            return name.split()[-1].rstrip("aeiou") + draw.choice(("ian", "ese", "i", "an", "ish", "er"))
        if any(c.isdigit() for c in real):
            return real if kind < 0.3 else self._digits(draw, real)
        if relation == "internet_code":
            return "." + "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2))
        if kind < 0.55:
            return real
        if kind < 0.8:
            parts = real.split()
            place = draw.randrange(len(parts))
            tail = "," if parts[place].endswith(",") else ""
            word = self.word(draw) if parts[place][0].isupper() else draw.choice(self.words)
            return " ".join([*parts[:place], word + tail, *parts[place + 1 :]])
        made = [self.word(draw) for _ in range(draw.choice((1, 2, 2, 3)))]
        text = " ".join(made)
        return text if real[0].isupper() else text.lower()

    @staticmethod
    def _digits(draw: random.Random, real: str) -> str:
        """The same shape with other digits; a leading digit is never 0."""

        def other(match: re.Match[str]) -> str:
            start = match.start()
            first = start == 0 or not (real[start - 1].isdigit() or real[start - 1] in ",.")
            return draw.choice("123456789" if first else "0123456789")

        return re.sub(r"\d", other, real)

    def clean_value(self, draw: random.Random, relation: str, name: str) -> str:
        """A value that names no unseen country."""
        while True:
            value = self.value(draw, relation, name)
            if not unseen().search(value):
                return value


FUNCTION_WORDS = re.compile(
    r"(what|is|the|of|which|does|do|in|are|who|when|where|how|by|on|has|have|to|from|for|a|an|many|much|there)", re.I
)
FRAMES = (
    "What is the {n} of {c}?",
    "{n} of {c}?",
    "Tell me the {n} of {c}.",
    "For {c}, what is the {n}?",
    "In {c}, what is the {n}?",
    "In {c} what is the {n}?",
    "{c}: {n}",
    "{c}, {n}?",
    "{c} has which {n}?",
    "{c} has what as its {n}?",
    "{c} is known for which {n}?",
    "{c} names what as its {n}?",
    "People in {c} give which {n}?",
    "Give the {n} that {c} has.",
    "Name the {n} of {c}.",
    "Name what {c} has as its {n}.",
    "Name the {n} people know {c} by.",
    "I want to know {c}'s {n}.",
    "Which {n} does {c} have?",
    "Which {n} can be found in {c}?",
    "The {n} of {c} is what?",
    "The {n} of {c} is which?",
    "How would one state the {n} of {c}?",
    "Where {c} is concerned, which {n} is right?",
    "Please say what the {n} in {c} is.",
    "Look for the {n}: {c}.",
)
OPENINGS = tuple("What Which Who Whose Where When Why How In On Name Tell Give Say".split())  # noqa: SIM905
FILLERS = tuple("there its it that does has have is are which how much many people used some".split())  # noqa: SIM905


def ask(draw: random.Random, relation: str, name: str, blurred: float = 0.0, words: Sequence[str] = ()) -> str:
    """A question in one of the trained wordings, or in a frame around the relation's noun or key words of a wording.

    Some lose a word or their case; a share `blurred` gets others of `words` in between. The wording that is kept for
    measuring never comes out.
    """
    item = world.RELATIONS[relation]
    text = kept_back = item.questions[-1]
    while text.lower() == kept_back.lower():
        text = draw.choice(item.questions[:-1])
        if draw.random() < 0.45:
            content = re.findall(r"[A-Za-z]+", text.replace("{c}", ""))
            kept = [word for word in content if not FUNCTION_WORDS.fullmatch(word)]
            noun = draw.choice((item.noun, item.noun, item.label, " ".join(kept)))
            text = draw.choice(FRAMES).replace("{n}", noun)
    if draw.random() < 0.08:
        pieces = text.split()
        free = [i for i, word in enumerate(pieces) if word in {"What", "is", "the", "of", "does", "in", "Which", "are"}]
        if free and len(pieces) > 3:
            pieces.pop(draw.choice(free))
            text = " ".join(pieces)
    if draw.random() < 0.08 and not text.startswith("{c}"):
        text = text[0].lower() + text[1:]
    if blurred and draw.random() < blurred:
        text = blur(draw, text, words)
        while text.lower() == kept_back.lower():
            text = blur(draw, text, words)
    return text.replace("{c}", name)


def blur(draw: random.Random, text: str, words: Sequence[str]) -> str:
    """A wording with some function words gone, one to four words that mean nothing here, and the name anywhere.

    What is left of it that tells the relation are its key words, in their order: whoever minds those understands
    wordings never seen.
    """
    pieces = re.sub(r"[?.,:]|'s\b", "", text).split()
    kept = [w for w in pieces if w != "{c}" and (not FUNCTION_WORDS.fullmatch(w) or draw.random() < 0.5)]
    for _ in range(draw.randint(1, 4)):
        word = draw.choice(words) if draw.random() < 0.5 else draw.choice(FILLERS)
        kept.insert(draw.randrange(len(kept) + 1), word)
    kept.insert(draw.randrange(len(kept) + 1), "{c}")
    if draw.random() < 0.7:
        kept.insert(0, draw.choice(OPENINGS))
    return " ".join(kept) + draw.choice(("?", "?", "."))
