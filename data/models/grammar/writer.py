"""Fill templates: `{slot}` draws and keeps a word, `{*slot}` draws afresh, `<a|b>` chooses, `[verb]` is inflected."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from numpy.random import Generator

from data.models.grammar.words import HE_NAMES, LISTS, SHE_NAMES, listed

T = TypeVar("T")

CHOICE = re.compile(r"<([^<>]*)>")
SLOT = re.compile(r"\{(a |A )?(\*)?(\w+)\}(s\b)?")
VERB = re.compile(r"\[(\w+)\]")

# Verbs that double their last letter, and those with a past of their own.
DOUBLED = listed(
    "chop clap dip drip drop flip grab hug hum nod pat pin plan rub scrub skip slip step stir stop tap trim wrap"
)
IRREGULAR = dict(
    pair.split(":")
    for pair in listed(
        "be:was are:were have:had go:went do:did say:said tell:told put:put set:set cut:cut take:took "
        "give:gave make:made find:found see:saw hear:heard feel:felt think:thought know:knew come:came "
        "sit:sat stand:stood hold:held keep:kept leave:left bring:brought buy:bought sell:sold pay:paid "
        "read:read write:wrote draw:drew sing:sang drink:drank eat:ate begin:began run:ran fall:fell fly:flew "
        "grow:grew blow:blew throw:threw lose:lost win:won hide:hid ride:rode drive:drove sleep:slept "
        "wake:woke shake:shook speak:spoke break:broke choose:chose bend:bent send:sent build:built hang:hung "
        "dig:dug swing:swung spread:spread let:let shut:shut hit:hit catch:caught teach:taught sweep:swept "
        "light:lit lie:lay slide:slid wear:wore tear:tore get:got forget:forgot understand:understood "
        "can:could spill:spilled lead:led meet:met become:became ring:rang feed:fed swim:swam steal:stole "
        "kneel:knelt bite:bit stick:stuck sew:sewed will:would"
    )
)
PLURALS = {"mouse": "mice", "goose": "geese"}
PRONOUNS = {True: ("she", "her", "her"), False: ("he", "his", "him")}


def present(verb: str) -> str:
    """Third person singular."""
    if verb in ("be", "have", "are", "can", "will"):
        return {"be": "is", "have": "has"}.get(verb, verb)
    if verb.endswith("y") and verb[-2] not in "aeou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def past(verb: str) -> str:
    """Simple past."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb in DOUBLED:
        return verb + verb[-1] + "ed"
    if verb.endswith("y") and verb[-2] not in "aeou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def plural(noun: str) -> str:
    """Plural of a noun from the lists."""
    if noun in PLURALS:
        return PLURALS[noun]
    return noun + ("es" if noun.endswith(("x", "s", "sh", "ch")) else "s")


@dataclass
class Writer:
    """A text in the making: a generator, a tense and the words already settled, so that names and objects persist."""

    rng: Generator
    past: bool = False
    facts: dict[str, str] = field(default_factory=dict)

    def pick(self, items: Sequence[T]) -> T:
        """One item, uniformly."""
        return items[int(self.rng.integers(len(items)))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """Distinct items in random order, at most `count`."""
        return [items[i] for i in self.rng.permutation(len(items))[:count]]

    def write(self, template: str) -> str:
        """Fill every mark of the template."""
        while CHOICE.search(template):
            template = CHOICE.sub(lambda m: self.pick(m[1].split("|")), template)
        text = SLOT.sub(self._slot, template)
        return VERB.sub(lambda m: past(m[1]) if self.past else present(m[1]), text)

    def _slot(self, match: re.Match[str]) -> str:
        article, fresh, key, many = match.groups()
        word = self.pick(LISTS[key]) if fresh else self.settle(key[0].lower() + key[1:])
        if many:
            word = plural(word)
        if article:
            word = ("an " if word[0] in "aeiou" else "a ") + word
        return word[0].upper() + word[1:] if key[0].isupper() or article == "A " else word

    def settle(self, key: str) -> str:
        """The word for a slot: drawn at first use, unlike its namesakes (`food`, `food2`), and kept from then on."""
        if key not in self.facts:
            kind, number = key.rstrip("0123456789"), key[len(key.rstrip("0123456789")) :]
            if kind in ("name", "she", "her", "him"):
                self._name(number)
            else:
                self._fresh(key, kind)
        return self.facts[key]

    def _fresh(self, key: str, kind: str) -> None:
        used = {word for other, word in self.facts.items() if other.rstrip("0123456789") == kind}
        self.facts[key] = self.pick([word for word in LISTS[kind] if word not in used])

    def _name(self, number: str) -> None:
        female = self.chance(0.5)
        used = set(self.facts.values())
        name = self.pick([n for n in (SHE_NAMES if female else HE_NAMES) if n not in used])
        for key, word in zip(("name", "she", "her", "him"), (name, *PRONOUNS[female]), strict=True):
            self.facts[key + number] = word
