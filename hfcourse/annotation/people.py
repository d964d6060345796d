"""Simulated people of the embedded world: noisy, biased, and not of one mind."""

import random

from hfcourse.data.preferences import Comparison
from hfcourse.world import Annotators


class WorldPeople:
    """One person, or several, of a pool ([`hfcourse.world.Annotators`]) judge each pair, in turn.

    Their noise and taste for certainty are the pool's. Beside them: a person who does not read (`position_bias`) takes
    the answer shown first, and one who sees no difference calls a tie.

    Args:
        labels_per_pair: people who judge a pair; more than one shows how far they agree.
        position_bias: share of judgements that fall on the first answer unread.
        tie_below: utilities that differ by less are a tie.
    """

    def __init__(self, pool: Annotators, labels_per_pair: int = 1, position_bias: float = 0.0, tie_below: float = 0.0):
        self.pool, self.labels_per_pair = pool, labels_per_pair
        self.position_bias, self.tie_below = position_bias, tie_below

    def __call__(self, comparisons: list[Comparison]) -> list[list[dict]]:
        return [
            [self._judge(c, (c.number * self.labels_per_pair + i) % self.pool.num_annotators) for i in self._people()]
            for c in comparisons
        ]

    def _people(self) -> range:
        return range(self.labels_per_pair)

    def _judge(self, comparison: Comparison, person: int) -> dict:
        row, a, b = comparison.row, comparison.a.text, comparison.b.text
        verdict = {"annotator": f"person_{person}", "p_a": self.pool.preference(row, a, b)}
        if abs(self.pool.utility(row, a) - self.pool.utility(row, b)) < self.tie_below:
            return {**verdict, "choice": "tie"}
        unread = random.Random(f"{self.pool.seed}|{person}|{comparison.id}").random() < self.position_bias
        return {**verdict, "choice": "a" if unread or self.pool.compare(row, a, b, person) else "b"}
