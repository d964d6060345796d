"""Lists that keep to one relation, which is said nowhere: what text must be like for in-context learning to pay.

An entry tells three facts of a stranger and sums up one of them; it is of the same relation in all entries of a page.

    Uma has a turtle. Uma lives in Oakton. Uma works as a cook. In short: Uma is a cook.

    Ivan is a baker. Ivan often wears red clothes. Ivan has a goat. In short: Ivan is a baker.

Whoever reads the first entries knows how the next one ends: inferring what a page is about lowers the loss, and is all
that examples in a prompt ask for (Xie et al., https://huggingface.co/papers/2111.02080).
"""

import random

from hfcourse.world.english import ANSWERS, STATEMENTS
from hfcourse.world.facts import STRANGERS, VALUES
from hfcourse.world.questions import split_of

ENTRIES, FACTS = 6, 3
CUE = " In short:"


def draw_list(rng: random.Random, split: str) -> dict[str, str]:
    """{"relation": one of the attributes, "text": a page of entries about different people, parted by blank lines}

    What an entry sums up is asked for by the questions of reading of the same split.
    """
    relation = rng.choice(list(VALUES))
    known = {name: _values(name, relation, split) for name in STRANGERS}
    people = rng.sample([name for name, values in known.items() if values], ENTRIES)
    entries = [_entry(rng, name, relation, rng.choice(known[name])) for name in people]
    return {"relation": relation, "text": "\n\n".join(entries)}


def _values(name: str, relation: str, split: str) -> list[str]:
    return [value for value in VALUES[relation] if split_of(f"reading|{name}|{relation}|{value}") == split]


def _entry(rng: random.Random, name: str, relation: str, value: str) -> str:
    told = {a: rng.choice(VALUES[a]) for a in rng.sample([a for a in VALUES if a != relation], FACTS - 1)}
    told[relation] = value
    facts = [rng.choice(STATEMENTS[a]).format(name=name, value=told[a]) for a in rng.sample(list(told), FACTS)]
    return f"{' '.join(facts)}{CUE} {ANSWERS[relation].format(name=name, value=value)}"
