"""Packed training prompts: one list of documents, several questions about it, each with its own answer.

The documents are read once; every tail (instruction, question, answer) sees them and itself, never another tail, and
its positions continue where the documents end. So each question is trained exactly as it will be asked: alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from headwater.data import world
from recipes.tiny.invent import Inventor, ask
from recipes.tiny.text import ANSWER, FIND, INTRO, SUFFIX, known_facts

Facts = dict[str, str]


@dataclass
class Pack:
    """Token ids of a prefix and of the tails that follow it; of each tail the last `answer` tokens are learned."""

    prefix: list[int]
    tails: list[list[int]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Tokens in all."""
        return len(self.prefix) + sum(map(len, self.tails))


@dataclass(frozen=True)
class Card:
    """A document: its country, the relations it states, and their values."""

    title: str
    facts: tuple[tuple[str, str], ...]

    def text(self, index: int) -> str:
        """`[i] title`, a line break, and one sentence per fact."""
        facts = " ".join(f"{world.RELATIONS[r].statement.format(c=self.title)} {v}." for r, v in self.facts)
        return f"[{index + 1}] {self.title}\n{facts}"


class Prompts:
    """Builds packs; pieces are tokenised one by one, as headwater does when it ranks and reads."""

    def __init__(self, tokenizer: Any, inventor: Inventor, like_real: float = 0.0, blurred: float = 0.0) -> None:
        """Keep the tokenizer and the encoded fixed pieces.

        `like_real` is the share of names made of known ones, `blurred` that of questions with idle words in them.
        """
        self.tokenizer, self.inventor, self.like_real, self.blurred = tokenizer, inventor, like_real, blurred
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.fixed = {piece: self.encode(piece) for piece in (INTRO, "\n\n", FIND, ANSWER, "Query:", SUFFIX)}
        self.known = known_facts()

    def encode(self, text: str) -> list[int]:
        """Ids of one piece."""
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def prefix(self, cards: list[Card], instruction: str | None, intro: bool = True) -> list[int]:
        """BOS, introduction, documents, instruction."""
        ids = [self.bos, *(self.fixed[INTRO] if intro else [])]
        for index, card in enumerate(cards):
            ids += self.fixed["\n\n"] + self.encode(card.text(index))
        if instruction:
            ids += self.fixed["\n\n"] + self.fixed[instruction]
        return ids

    def tail(self, question: str, target: str) -> tuple[list[int], int]:
        """Question, suffix, target and EOS; and how many of these are learned."""
        ids = self.fixed["\n\n"] + self.fixed["Query:"] + self.encode(" " + question) + self.fixed[SUFFIX]
        learned = [*self.encode(" " + target), self.eos]
        return ids + learned, len(learned)

    def documents(
        self,
        draw: random.Random,
        count: int,
        tails: int,
        task: str = "read",
        edited: float | None = None,
        verbatim: float = 0.1,
        early: float = 0.0,
    ) -> Pack:
        """`count` documents about invented countries, and what to do.

        With `edited` they are about known ones, that share of their values edited, and the answers are what the
        documents state.

        `task` is ``read`` (answer a question), ``quote`` (recite the document that answers it) or ``state`` (complete
        a statement of the documents, without any question). A question is the bare statement in `verbatim` of cases.

        Two packs in five are like a ranking list: half of the documents are about the asked country, the others state
        the asked relation of other countries. Two in ten state one relation of many countries (only the name tells
        them apart), three in ten are about one country (only the relation does). The rest mix freely. Of `early`
        packs the first documents are asked about, those farthest from the questions.
        """
        build = draw.choices((self._ranking, self._mixed, self._one_relation, self._one_country), (4, 1, 2, 3))[0]
        cards, focus = build(draw, count, edited)
        order = list(range(len(cards)))
        draw.shuffle(order)
        cards = [cards[i] for i in order]
        instructions = {"state": (None,), "quote": (FIND, FIND, None), "read": (FIND, FIND, ANSWER, ANSWER, None)}
        instruction = draw.choice(instructions[task])
        pack = Pack(self.prefix(cards, instruction, intro=draw.random() < 0.9))
        stated = [(i, r, v) for i, card in enumerate(cards) for r, v in card.facts]
        draw.shuffle(stated)
        if early and draw.random() < early:
            stated.sort(key=lambda c: c[0])
        elif focus is not None:
            stated.sort(key=lambda c: (cards[c[0]].title, c[1]) != focus)
        for place, relation, value in stated[:tails]:
            title = cards[place].title
            statement = world.RELATIONS[relation].statement.format(c=title)
            if task == "state":
                learned = [*self.encode(" " + value), *self.encode("."), self.eos]
                pack.tails.append(self.fixed["\n\n"] + self.encode(statement) + learned)
                pack.answers.append(len(learned))
            else:
                question = statement if draw.random() < verbatim else self.ask(draw, relation, title)
                self.add(pack, question, cards[place].text(place) if task == "quote" else value)
        return pack

    def closed_book(self, draw: random.Random, tails: int) -> Pack:
        """Questions about known countries without documents."""
        pack = Pack([self.bos])
        names = list(self.known)
        for _ in range(tails):
            name = draw.choice(names)
            relation = draw.choice(list(self.known[name]))
            self.add(pack, self.ask(draw, relation, name), self.known[name][relation])
            pack.tails[-1] = pack.tails[-1][1:]  # no separator where there is no document
        return pack

    def noise(self, draw: random.Random, count: int, tails: int) -> Pack:
        """Questions about a known country whose documents do not state the answer: only memory does.

        Asked first, and the main one three times in different words, are the relations that the documents state of
        other countries: there a reader that does not mind the name goes wrong.
        """
        cards, (main, asked) = self._ranking(draw, count + 1, 0.0)
        cards = [card for card in cards if (card.title, asked) not in {(main, r) for r, _ in card.facts}][:count]
        draw.shuffle(cards)
        pack = Pack(self.prefix(cards, draw.choice((FIND, ANSWER, None)), intro=draw.random() < 0.9))
        own = {r for card in cards if card.title == main for r, _ in card.facts}
        others = {r for card in cards if card.title != main for r, _ in card.facts}
        rest = [r for r in self.known[main] if r != asked and r not in own]
        draw.shuffle(rest)
        rest.sort(key=lambda r: r not in others)
        for relation in [asked, asked, asked, *rest][:tails]:
            self.add(pack, self.ask(draw, relation, main), self.known[main][relation])
        return pack

    def conflict(self, draw: random.Random, count: int, follow: float) -> Pack:
        """Documents about known countries, one value of each edited; the answer is the document's in `follow` of cases.

        In the others it is the true one, as memory has it. What else the documents state is asked too.
        """
        cards, asked = [], []
        for title in draw.sample(list(self.known), count):
            facts = self.known[title]
            relations = draw.sample(list(facts), min(self._sizes(draw), len(facts)))
            wrong = relations[0]
            values = {r: facts[r] for r in relations}
            while values[wrong] == facts[wrong]:
                values[wrong] = self.inventor.clean_value(draw, wrong, title)
            answer = values[wrong] if draw.random() < follow else facts[wrong]
            asked += [(wrong, title, answer)] * 2 + [(r, title, facts[r]) for r in relations[1:]]
            cards.append(Card(title, tuple((r, values[r]) for r in self._shuffled(draw, relations))))
        pack = Pack(self.prefix(cards, draw.choice((FIND, ANSWER, ANSWER, None)), intro=draw.random() < 0.9))
        for relation, title, answer in asked:
            self.add(pack, self.ask(draw, relation, title), answer)
        return pack

    def ask(self, draw: random.Random, relation: str, name: str) -> str:
        """A question, some of them blurred."""
        return ask(draw, relation, name, self.blurred, self.inventor.words)

    def add(self, pack: Pack, question: str, target: str) -> None:
        """Append a question and its answer to a pack."""
        ids, learned = self.tail(question, target)
        pack.tails.append(ids)
        pack.answers.append(learned)

    def _people(self, draw: random.Random, count: int, edited: float | None) -> dict[str, Facts]:
        """Invented countries without values, or known ones (`edited` is a share) with theirs."""
        if edited is None:
            return {name: {} for name in self.inventor.names(draw, count, self.like_real)}
        chosen = draw.sample(list(self.known), min(count, len(self.known)))
        return {name: dict(self.known[name]) for name in chosen}

    def _card(self, draw: random.Random, title: str, facts: Facts, relations: list[str], edited: float | None) -> Card:
        rows = []
        for relation in relations:
            if relation not in facts or (edited is not None and draw.random() < edited):
                facts[relation] = self.inventor.clean_value(draw, relation, title)
            rows.append((relation, facts[relation]))
        return Card(title, tuple(rows))

    def _sizes(self, draw: random.Random) -> int:
        return draw.choices((1, 2, 3, 4), (25, 35, 25, 15))[0]

    def _ranking(self, draw: random.Random, count: int, edited: float | None) -> tuple[list[Card], tuple[str, str]]:
        """One country in half of the documents, others each with the asked relation."""
        others = max(1, count - (count + 1) // 2)
        people = self._people(draw, others + 1, edited)
        (main, facts), *rest = people.items()
        relations = [r for r in self.inventor.relations if edited is None or r in facts]
        draw.shuffle(relations)
        asked = relations[0]
        cards: list[Card] = []
        while len(cards) < count - others and relations:
            size = self._sizes(draw)
            cards.append(self._card(draw, main, facts, self._shuffled(draw, relations[:size]), edited))
            relations = relations[size:]
        for title, theirs in rest[: count - len(cards)]:
            if edited is not None and asked not in theirs:
                continue
            more = [r for r in (theirs if edited is not None else self.inventor.relations) if r != asked]
            chosen = [asked, *draw.sample(more, self._sizes(draw) - 1)]
            cards.append(self._card(draw, title, theirs, self._shuffled(draw, chosen), edited))
        return cards, (main, asked)

    def _one_relation(self, draw: random.Random, count: int, edited: float | None) -> tuple[list[Card], None]:
        """One relation of many countries, a document each."""
        people = self._people(draw, count, edited)
        relation = draw.choice(self.inventor.relations)
        cards = [self._card(draw, title, facts, [relation], edited) for title, facts in people.items()]
        return cards, None

    def _one_country(self, draw: random.Random, count: int, edited: float | None) -> tuple[list[Card], None]:
        """Many relations of one country, one to a document."""
        (title, facts), *_ = self._people(draw, 1, edited).items()
        few = [r for r in self.inventor.relations if edited is None or r in facts]
        return [self._card(draw, title, facts, [r], edited) for r in draw.sample(few, min(count, len(few)))], None

    def _mixed(self, draw: random.Random, count: int, edited: float | None) -> tuple[list[Card], None]:
        """A few countries and a few relations, dealt into documents."""
        people = self._people(draw, draw.randint(1, count), edited)
        few = draw.sample(self.inventor.relations, draw.randint(4, len(self.inventor.relations)))
        cards: list[Card] = []
        left = {title: [r for r in few if edited is None or r in facts] for title, facts in people.items()}
        for _ in range(count):
            title = draw.choice([t for t in left if left[t]] or [""])
            if not title:
                break
            size = self._sizes(draw)
            draw.shuffle(left[title])
            cards.append(self._card(draw, title, people[title], left[title][:size], edited))
            left[title] = left[title][size:]
        return cards or [self._card(draw, *next(iter(people.items())), ["area"], edited)], None

    @staticmethod
    def _shuffled(draw: random.Random, items: list[str]) -> list[str]:
        draw.shuffle(items)
        return items
