"""The people and towns of the micro-world, what is true of them, and how that is said and asked."""

import random
from dataclasses import dataclass, field

INSTRUMENTS = ["flute", "harp", "drum", "lute", "fiddle", "horn", "cello", "banjo", "piano", "zither", "guitar", "trumpet"]
PROFESSIONS = [
    "baker",
    "weaver",
    "sailor",
    "miller",
    "teacher",
    "potter",
    "farmer",
    "painter",
    "tailor",
    "fisher",
    "carpenter",
    "gardener",
    "doctor",
    "printer",
]
ANIMALS = ["cat", "dog", "goat", "parrot", "rabbit", "pony", "turtle", "goose", "hen", "ferret", "lizard", "hamster"]
DISHES = ["soup", "plums", "cheese", "noodles", "honey", "pears", "mushrooms", "pancakes", "beans", "cherries", "trout", "chestnuts"]
CRAFTS = ["glass", "lace", "clocks", "pottery", "silk", "bells", "paper", "ropes", "boats", "carpets", "knives", "candles"]


@dataclass(frozen=True)
class Relation:
    """One thing that can be true of a subject {n}; {v} is its value. `subject` is the suite's name for the field of knowledge."""

    name: str
    subject: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


PERSON = (
    Relation(
        "town",
        "residence",
        ("{n} lives in {v}.", "The home of {n} is in {v}.", "{n} has a small house in {v}.", "Letters for {n} are sent to {v}."),
        ("Where does {n} live?", "In which town does {n} have a home?", "Which town does {n} live in?"),
    ),
    Relation(
        "profession",
        "work",
        ("{n} works as a {v}.", "By trade, {n} is a {v}.", "{n} earns money as a {v}.", "{n} has long been a {v}."),
        ("Which profession does {n} have?", "What work does {n} do?", "Which trade does {n} follow?"),
    ),
    Relation(
        "instrument",
        "music",
        ("{n} plays the {v}.", "On feast days {n} plays the {v}.", "{n} learned the {v} as a child.", "{n} owns an old {v}."),
        ("Which instrument does {n} play?", "What does {n} play on feast days?", "What instrument did {n} learn?"),
    ),
    Relation(
        "animal",
        "animals",
        ("{n} keeps a {v}.", "The pet of {n} is a {v}.", "{n} takes good care of a {v}.", "In the garden {n} has a {v}."),
        ("Which animal does {n} keep?", "Which pet does {n} have?", "What animal does {n} take care of?"),
    ),
    Relation(
        "dish",
        "food",
        ("{n} loves {v}.", "The favourite food of {n} is {v}.", "{n} likes nothing more than {v}.", "For supper {n} wants {v}."),
        ("Which food does {n} like best?", "What does {n} want for supper?", "Which food does {n} love?"),
    ),
)
# Facts of somebody else: of the spouse, or of the town one lives in. Documents say them in one breath; no document asks.
THROUGH = (
    Relation(
        "spouse_profession",
        "family",
        ("{n} is married to a {v}.", "The spouse of {n} works as a {v}.", "At home {n} listens to the stories of a {v}."),
        ("Which profession does the spouse of {n} have?", "What work does the spouse of {n} do?"),
    ),
    Relation(
        "spouse_instrument",
        "family",
        ("The spouse of {n} plays the {v}.", "{n} fell in love with a player of the {v}.", "The spouse of {n} owns an old {v}."),
        ("Which instrument does the spouse of {n} play?", "What does the person whom {n} married play?"),
    ),
    Relation(
        "spouse_dish",
        "family",
        ("The spouse of {n} loves {v}.", "For the spouse, {n} often cooks {v}.", "The spouse of {n} likes nothing more than {v}."),
        ("What food does the person whom {n} married love?", "Which food does the spouse of {n} love?"),
    ),
    Relation(
        "town_river",
        "travel",
        ("{n} lives on the river {v}.", "From the window {n} sees the river {v}.", "In summer {n} swims in the {v}."),
        ("On which river does {n} live?", "Which river does {n} see from the window?"),
    ),
    Relation(
        "town_region",
        "travel",
        ("{n} lives in the region of {v}.", "{n} is at home in the region of {v}.", "{n} seldom leaves the region of {v}."),
        ("In which region does {n} live?", "Which region does the town of {n} belong to?"),
    ),
    Relation(
        "town_craft",
        "travel",
        ("The town of {n} is known for its {v}.", "{n} lives in a town that makes {v}.", "All around {n} people make {v}."),
        ("What is made in the town where {n} lives?", "What is the town of {n} known for?"),
    ),
)
TOWN = (
    Relation(
        "river",
        "geography",
        ("{n} lies on the river {v}.", "Boats come to {n} on the {v}.", "The bridge of {n} crosses the {v}."),
        ("Which river does {n} lie on?", "On which river does {n} lie?"),
    ),
    Relation(
        "region",
        "geography",
        ("{n} belongs to the region of {v}.", "{n} lies in the region of {v}.", "You reach {n} through the region of {v}."),
        ("Which region does {n} belong to?", "In which region does {n} lie?"),
    ),
    Relation(
        "craft",
        "geography",
        ("{n} is known for its {v}.", "People in {n} make {v}.", "The market of {n} sells {v}."),
        ("What is {n} known for?", "What do people in {n} make?"),
    ),
)


@dataclass
class Entity:
    """A person or a town. Examined ones appear in questions of the suites only; nothing that is trained on asks about them."""

    name: str
    examined: bool
    facts: dict[str, str] = field(default_factory=dict)
    spouse: "Entity | None" = None

    @property
    def given(self) -> str:
        return self.name.split()[0]


@dataclass(frozen=True)
class World:
    people: tuple[Entity, ...]
    towns: tuple[Entity, ...]
    values: dict[str, tuple[str, ...]]


def _words(source: random.Random, count: int, endings: str, taken: set[str]) -> list[str]:
    """`count` new pronounceable words, no two with the same first four letters, so that no name is mistaken for another."""
    words: list[str] = []
    while len(words) < count:
        word = (
            source.choice(["B", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W"])
            + source.choice("aeiou")
            + source.choice(["l", "m", "n", "r", "s", "d", "v"])
        )
        word += source.choice(endings.split())
        if word[:4] not in taken:
            taken.add(word[:4])
            words.append(word)
    return words


def _towns(source: random.Random, count: int, taken: set[str]) -> tuple[tuple[Entity, ...], dict[str, tuple[str, ...]]]:
    rivers, regions = _words(source, 12, "e a o", taken), _words(source, 8, "mark land shire", taken)
    towns = tuple(Entity(name, number % 2 == 1) for number, name in enumerate(_words(source, count, "ton ham burg stad wick", taken)))
    values = {"river": tuple(rivers), "region": tuple(regions), "craft": tuple(CRAFTS)}
    for town in towns:
        town.facts = {relation: source.choice(pool) for relation, pool in values.items()}
    return towns, values


def _through(person: Entity, towns: dict[str, Entity]) -> dict[str, str]:
    assert person.spouse is not None
    spouse, town = person.spouse.facts, towns[person.facts["town"]].facts
    facts = {f"spouse_{name}": spouse[name] for name in ("profession", "instrument", "dish")}
    return facts | {f"town_{name}": town[name] for name in ("river", "region", "craft")}


def make(seed: int, people: int, towns: int) -> World:
    """The world of a seed: `people` (an even number, in couples) and `towns`, every second couple and every second town examined.

    A couple shares a town and differs in everything else, so that the answer for one is wrong for the other.
    """
    source, taken = random.Random(f"world {seed}"), set[str]()
    places, values = _towns(source, towns, taken)
    values |= {"town": tuple(town.name for town in places), "profession": tuple(PROFESSIONS), "instrument": tuple(INSTRUMENTS)}
    values |= {"animal": tuple(ANIMALS), "dish": tuple(DISHES)}
    given, family = _words(source, people, "a i o in an el", taken), _words(source, people, "er ing ock ley by", taken)
    everyone = [Entity(f"{first} {last}", number // 2 % 2 == 1) for number, (first, last) in enumerate(zip(given, family, strict=True))]
    for one, other in zip(everyone[::2], everyone[1::2], strict=True):
        one.spouse, other.spouse = other, one
        for relation in PERSON:
            one.facts[relation.name], other.facts[relation.name] = source.sample(values[relation.name], 2)
        other.facts["town"] = one.facts["town"]
    by_name = {town.name: town for town in places}
    for person in everyone:
        person.facts = person.facts | _through(person, by_name)
    values |= {f"spouse_{name}": values[name] for name in ("profession", "instrument", "dish")}
    values |= {f"town_{name}": values[name] for name in ("river", "region", "craft")}
    return World(tuple(everyone), places, values)
