"""What is a label worth? Ratings against comparisons, people against a model, on the world, where the truth is known.

    make demo                                   # leaves runs/demo/sft, whose answers are judged here
    python benchmarks/labels.py                 # about two minutes of one core
    python benchmarks/labels.py --model another/world-trained/model

Two answers each to 2,000 prompts (and 500 held out) are judged by a pool of eight people. A reward is learnt from the
labels as a linear function of the model's frozen states (last and mean), so that many samples of labels can be tried:
Bradley-Terry on comparisons, ridge regression on ratings, either regularised by what serves it best on a third of its
labels. Scored by how often it chooses as a stranger of the pool would, in expectation, on the held-out pairs.

- at equal cost, counted in answers that somebody reads (a comparison 2, a rating 1): ratings by different people, as
  they are and after each person's own mean and spread were taken out, against comparisons;
- people's pairs against pairs labelled by a model (`likelihood`: what the SFT model would sooner write), by number:
  how many of people's are worth as much as all of the model's.

Prints one line of JSON and writes labels.json.
"""

import argparse
import json
import os
import platform
import random
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse.annotation.people import WorldPeople
from hfcourse.annotation.report import describe
from hfcourse.annotation.scorers import likelihood_annotator
from hfcourse.data import apply_template, load_dataset
from hfcourse.data.preferences import Answer, Comparison, compare_all
from hfcourse.evaluation import estimate, generate, paired_difference
from hfcourse.world import Annotators

PAIRS, HELD_OUT, SEEDS = 2000, 500, 20
BUDGETS = (100, 200, 400, 800, 1600, 3200)  # answers read
PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def comparisons_of(model, tokenizer, split: str, count: int) -> list[Comparison]:
    rows = list(apply_template(load_dataset("world/prompts", split, num_examples=count), "four_part_en"))
    written = generate(model, tokenizer, [row["prompt"] for row in rows for _ in range(2)], 48, 0.7, 128, seed=0)
    texts = [Answer(w.text if w.finished else "", "sft") for w in written]
    return compare_all(rows, [texts[i : i + 2] for i in range(0, len(texts), 2)])


@torch.no_grad()
def states(model, tokenizer, comparisons: list[Comparison]) -> np.ndarray:
    """(pairs, 2, 2·width): last and mean hidden state over each answer, whitened by their own spread."""
    features = []
    for c in comparisons:
        prompt = len(tokenizer(c.row["prompt"])["input_ids"])
        for answer in (c.a, c.b):
            ids = torch.tensor([tokenizer(c.row["prompt"] + answer.text + tokenizer.eos_token)["input_ids"]])
            hidden = model.base_model(input_ids=ids).last_hidden_state[0, prompt:]
            features.append(torch.cat([hidden[-1], hidden.mean(0)]).numpy())
    return np.array(features).reshape(len(comparisons), 2, -1).astype(np.float64)


def bradley_terry(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """argmin_w Σ -log σ(y x·w) + penalty/2 |w|², by Newton's method; x (n, d) differences, y ±1."""
    w = np.zeros(x.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(np.clip(y * (x @ w), -30, 30)))
        gradient = -(x * (y * p)[:, None]).sum(0) + penalty * w
        curvature = (x * (p * (1 - p))[:, None]).T @ x + penalty * np.eye(len(w))
        w -= np.linalg.solve(curvature, gradient)
    return w


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    y = y - y.mean()
    centred = x - x.mean(0)
    return np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ y)


def best_penalty(fit, x: np.ndarray, y: np.ndarray, goodness) -> np.ndarray:
    """The fit on all labels with the penalty that did best on a third of them."""
    third = max(1, len(x) // 3)
    tried = [goodness(x[:third] @ fit(x[third:], y[third:], penalty), y[:third]) for penalty in PENALTIES]
    return fit(x, y, PENALTIES[int(np.argmax(tried))])


def from_comparisons(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return best_penalty(bradley_terry, x, y, lambda margins, labels: -np.logaddexp(0, -labels * margins).sum())


def from_ratings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def goodness(predicted, ratings):
        return -np.square(predicted - predicted.mean() - (ratings - ratings.mean())).sum()

    return best_penalty(ridge, x, y, goodness)


def standardized(ratings: np.ndarray, people: np.ndarray) -> np.ndarray:
    out = ratings.copy()
    for person in np.unique(people):
        own = ratings[people == person]
        out[people == person] = (own - own.mean()) / (own.std() + 1e-9) if len(own) > 1 else 0.0
    return out


class Held:
    """Held-out pairs: how often a reward chooses as a stranger would."""

    def __init__(self, pool: Annotators, comparisons: list[Comparison], features: np.ndarray):
        self.x = features[:, 0] - features[:, 1]
        self.p = np.array([pool.preference(c.row, c.a.text, c.b.text) for c in comparisons])

    def accuracy(self, w: np.ndarray) -> float:
        return float(np.where(self.x @ w > 0, self.p, 1 - self.p).mean())


def one_seed(seed: int, pool: Annotators, train: list[Comparison], x: np.ndarray, ai: np.ndarray, held: Held) -> dict:
    order = random.Random(seed).sample(range(len(train)), len(train))
    difference = x[:, 0] - x[:, 1]
    found: dict[str, list[float]] = {n: [] for n in ("comparisons", "ratings", "calibrated", "people", "model")}
    people = np.array([random.Random(f"{seed}/{i}").randrange(pool.num_annotators) for i in range(2 * len(train))])
    choices = np.array(
        [1 if pool.compare(c.row, c.a.text, c.b.text, int(people[2 * i])) else -1 for i, c in enumerate(train)]
    )
    ratings = np.array(
        [
            pool.score(c.row, a.text, int(people[2 * i + j]))
            for i, c in enumerate(train)
            for j, a in enumerate((c.a, c.b))
        ]
    )
    for budget in BUDGETS:
        rows = np.array(order[: budget // 2])
        answers = np.stack([2 * rows, 2 * rows + 1], 1).ravel()  # the same answers, each read once
        flat = x.reshape(-1, x.shape[-1])[answers]
        found["comparisons"].append(held.accuracy(from_comparisons(difference[rows], choices[rows])))
        found["ratings"].append(held.accuracy(from_ratings(flat, ratings[answers])))
        own = standardized(ratings[answers], people[answers])
        found["calibrated"].append(held.accuracy(from_ratings(flat, own)))
        found["model"].append(held.accuracy(from_comparisons(difference[rows], ai[rows])))
    found["people"] = found["comparisons"]
    return found


def worth(curves: dict[str, list[float]]) -> float | str:
    """People's pairs that reach what the model's pairs reach at most, between two budgets by the logarithm."""
    target, people = max(curves["model"]), curves["people"]
    if people[0] >= target:
        return f"fewer than {BUDGETS[0] // 2}"
    for i in range(1, len(BUDGETS)):
        if people[i] >= target:
            share = (target - people[i - 1]) / (people[i] - people[i - 1])
            return round(float(np.exp(np.interp(share, [0, 1], np.log([BUDGETS[i - 1] / 2, BUDGETS[i] / 2])))))
    return f"more than {BUDGETS[-1] // 2}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(__file__).parent.parent / "runs" / "demo" / "sft"))
    path = parser.parse_args().model
    if not Path(path).is_dir():  # `make bench` goes on without it
        parser.exit(0, f"labels: there is no '{path}'; run `make demo`, or name a model trained on the world\n")
    torch.set_num_threads(1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    pool = Annotators(8, seed=0)
    train, test = (comparisons_of(model, tokenizer, *args) for args in (("train", PAIRS), ("test", HELD_OUT)))
    x, held_x = (states(model, tokenizer, of) for of in (train, test))
    scale = x.reshape(-1, x.shape[-1]).std(0) + 1e-9
    x, held = x / scale, Held(pool, test, held_x / scale)
    labelled = likelihood_annotator(model, tokenizer, "sft")(train)
    ai = np.array([1 if verdicts[0]["choice"] == "a" else -1 for verdicts in labelled])
    ai_report = describe(train, {c.id: v for c, v in zip(train, labelled, strict=True)})
    crowd = WorldPeople(pool, labels_per_pair=3)(train)
    crowd_report = describe(train, {c.id: v for c, v in zip(train, crowd, strict=True)})
    runs = [one_seed(seed, pool, train, x, ai, held) for seed in range(SEEDS)]
    curves = {name: np.mean([run[name] for run in runs], 0).round(4).tolist() for name in runs[0]}
    gains = {
        name: [
            paired_difference([r[name][i] for r in runs], [r["comparisons"][i] for r in runs])
            for i in range(len(BUDGETS))
        ]
        for name in ("ratings", "calibrated")
    }
    result = {
        "benchmark": "labels",
        "pairs": len(train),
        "held_out": len(test),
        "seeds": SEEDS,
        "answers_read": BUDGETS,
        "accuracy": curves,
        "spread": {n: [round(estimate([r[n][i] for r in runs]).se, 4) for i in range(len(BUDGETS))] for n in runs[0]},
        "bayes_accuracy": round(float(np.maximum(held.p, 1 - held.p).mean()), 4),
        "comparisons_minus": {n: [[round(g.mean, 4), round(g.se, 4)] for g in of] for n, of in gains.items()},
        "pairs_of_people_worth_all_of_the_models": worth(curves),
        "model_labels": {n: ai_report[n] for n in ("gold_accuracy", "length_bias") if n in ai_report},
        "three_people": {n: crowd_report[n] for n in ("fleiss_kappa", "gold_accuracy", "length_bias")},
        "machine": f"{platform.machine()}, one thread",
    }
    (Path(__file__).with_suffix(".json")).write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
