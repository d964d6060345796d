"""What labels are worth: agreement, stability under a swap, biases, and truth where it is known."""

from collections.abc import Sequence
from statistics import fmean

from hfcourse.annotation.agreement import cohens_kappa, fleiss_kappa, over_items
from hfcourse.data.preferences import GOLD_COLUMNS, Comparison, decide
from hfcourse.evaluation.statistics import wilson_interval
from hfcourse.world import gold_reward


def gold_scores(comparison: Comparison) -> tuple[float, float] | None:
    """Gold reward of both answers where the row has the world's gold columns, else None."""
    if not set(GOLD_COLUMNS) <= comparison.row.keys():
        return None
    truth = {name: [comparison.row[name]] * 2 for name in GOLD_COLUMNS}
    return tuple(gold_reward(None, [comparison.a.text, comparison.b.text], **truth))


def describe(comparisons: Sequence[Comparison], verdicts: dict[str, list[dict]]) -> dict[str, object]:
    """A report on the comparisons that were judged.

    num_labelled, num_pairs (decided), num_ties, num_skipped, num_labels (single judgements);
    fleiss_kappa, cohens_kappa (first against second judgement) with 95 % intervals, where pairs have several;
    flip_rate: share of pairs of which a judge decided otherwise when the answers were swapped;
    position_bias: share of decisions for the answer shown first, ½ being fair, and its 95 % interval;
    length_bias: share of decisions for the longer answer (in characters);
    gold_accuracy, its interval and gold_kappa: against the gold reward, where it is known and no tie;
    bayes_accuracy, agreement: the best guess of a stranger's choice, mean max(p, 1 - p), and how often two strangers
    choose alike, mean p² + (1 - p)², where the annotators are the world's people.
    """
    judged = [(c, verdicts[c.id]) for c in comparisons if c.id in verdicts]
    decided = [(c, v, decide(v)) for c, v in judged]
    choices = [choice for _, _, choice in decided]
    clear = [(c, v, choice) for c, v, choice in decided if choice in ("a", "b")]
    report: dict[str, object] = {
        "num_labelled": len(judged),
        "num_labels": sum(len(v) for _, v in judged),
        "num_pairs": len(clear),
        "num_ties": choices.count("tie"),
        "num_skipped": choices.count("skip"),
        **_agreement([v for _, v in judged]),
        **_position(clear),
        **_length(clear),
        **_judge([v for _, v in judged]),
        **_truth(clear),
    }
    p = [v["p_a"] for _, of_one in judged for v in of_one if v["annotator"].startswith("person_")]
    if p:
        report["bayes_accuracy"] = fmean(max(x, 1 - x) for x in p)
        report["agreement"] = fmean(x * x + (1 - x) * (1 - x) for x in p)
    return report


def _agreement(verdicts: list[list[dict]]) -> dict[str, object]:
    items = [[v["choice"] for v in of_one if v["choice"] != "skip"] for of_one in verdicts]
    items = [labels for labels in items if len(labels) > 1]
    if not items:
        return {}
    return {
        "fleiss_kappa": over_items(fleiss_kappa, items),
        "cohens_kappa": over_items(lambda rows: cohens_kappa(*zip(*(r[:2] for r in rows), strict=True)), items),
    }


def _position(clear: list) -> dict[str, object]:
    votes = [v["choice"] for _, of_one, _ in clear for v in of_one if v["choice"] in ("a", "b")]
    return _share("position_bias", votes.count("a"), len(votes))


def _length(clear: list) -> dict[str, object]:
    longer = [
        (len(c.a.text) > len(c.b.text)) == (choice == "a") for c, _, choice in clear if len(c.a.text) != len(c.b.text)
    ]
    return _share("length_bias", sum(longer), len(longer))


def _truth(clear: list) -> dict[str, object]:
    gold = [(choice, gold_scores(c)) for c, _, choice in clear]
    pairs = [(choice, "a" if g[0] > g[1] else "b") for choice, g in gold if g is not None and g[0] != g[1]]
    if not pairs:
        return {}
    hits = sum(choice == truth for choice, truth in pairs)
    kappa = over_items(lambda rows: cohens_kappa(*zip(*rows, strict=True)), pairs)
    return {**_share("gold_accuracy", hits, len(pairs)), "gold_kappa": kappa}


def _share(name: str, count: int, total: int) -> dict[str, object]:
    if not total:
        return {}
    low, high = wilson_interval(count, total)
    return {name: count / total, f"{name}_low": low, f"{name}_high": high}


def _judge(verdicts: list[list[dict]]) -> dict[str, object]:
    """flip_rate and position_bias of annotators that were asked in both orders, ties and skips of an order left out.

    A judge that takes what stands first says a in one order and b in the other: that is a flip, and two votes for the
    first place.
    """
    orders = [v["orders"] for of_one in verdicts for v in of_one if "orders" in v]
    clear = [pair for pair in orders if set(pair) <= {"a", "b"}]
    if not clear:
        return {}
    first = sum((pair[0] == "a") + (pair[1] == "b") for pair in clear)
    flips = sum(pair[0] != pair[1] for pair in clear)
    return {**_share("flip_rate", flips, len(clear)), **_share("position_bias", first, 2 * len(clear))}
