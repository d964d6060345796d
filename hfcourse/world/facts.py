"""The truth of the world: who lives where and likes what, and what the words of its small language mean."""

import random
from dataclasses import dataclass
from functools import lru_cache

# The people of the world. The corpus states every fact about them, again and again.
PEOPLE = (
    "Mara",
    "Tom",
    "Lena",
    "Oskar",
    "Nina",
    "Paul",
    "Ada",
    "Hugo",
    "Ines",
    "Karl",
    "Rosa",
    "Finn",
    "Vera",
    "Emil",
    "Clara",
    "Leo",
    "Alma",
    "Bruno",
    "Edda",
    "Gustav",
    "Helga",
    "Jonas",
    "Milla",
    "Anna",
)

# People who are not of the world: nobody knows about them but what a context says.
STRANGERS = (
    "Bela",
    "Cora",
    "Dario",
    "Eva",
    "Felix",
    "Gina",
    "Heidi",
    "Igor",
    "Jana",
    "Kira",
    "Luis",
    "Mona",
    "Otto",
    "Petra",
    "Rita",
    "Sven",
    "Tara",
    "Ulf",
    "Wanda",
    "Zoe",
    "Anton",
    "Berta",
    "Cesar",
    "Delia",
    "Edgar",
    "Flora",
    "Greta",
    "Hanna",
    "Ivan",
    "Julia",
    "Kurt",
    "Lotta",
    "Marek",
    "Nora",
    "Olga",
    "Pia",
    "Ralf",
    "Sara",
    "Theo",
    "Uma",
)

# attribute: its values. Three people share each of them, so that every value is seen often.
VALUES = {
    "town": ("Oakton", "Millbrook", "Harwick", "Redford", "Lakeside", "Ashby", "Westport", "Stonefield"),
    "job": ("baker", "teacher", "doctor", "farmer", "painter", "driver", "gardener", "cook"),
    "pet": ("cat", "dog", "rabbit", "parrot", "turtle", "hamster", "pony", "goat"),
    "colour": ("red", "blue", "green", "yellow", "white", "black", "purple", "orange"),
    "food": ("soup", "bread", "rice", "cheese", "fish", "honey", "cake", "salad"),
}

FEELINGS = ("happy", "sad", "angry", "afraid", "proud", "tired")

# Tavi, the language of the islands: word by word, in the order of English.
TAVI = {
    "cat": "miru",
    "dog": "bako",
    "house": "tola",
    "river": "selu",
    "bread": "pani",
    "water": "ovi",
    "friend": "kemi",
    "sun": "rasa",
    "moon": "luno",
    "tree": "dova",
    "fish": "nelo",
    "book": "tiri",
    "red": "karo",
    "blue": "zeli",
    "big": "gomo",
    "small": "pilu",
}
NOUNS = tuple(word for word in TAVI if word not in ("red", "blue", "big", "small"))
ADJECTIVES = ("red", "blue", "big", "small")


@dataclass(frozen=True)
class World:
    """What is true. `facts[person][attribute]` is a value of [`VALUES`]."""

    seed: int
    facts: dict[str, dict[str, str]]


@lru_cache
def world(seed: int = 0) -> World:
    """The world of a seed; the same on every machine. Each value of an attribute belongs to three people."""
    facts = {person: {} for person in PEOPLE}
    for attribute, values in VALUES.items():
        order = list(values) * (len(PEOPLE) // len(values))
        random.Random(f"facts/{seed}/{attribute}").shuffle(order)
        for person, value in zip(PEOPLE, order, strict=True):
            facts[person][attribute] = value
    return World(seed, facts)
