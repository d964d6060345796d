"""What runs say: the law, how sure it is, how others read them, and how well it foresaw the run held out."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hfcourse.errors import InputError
from hfcourse.scaling import (
    ScalingLaw,
    bootstrap_laws,
    fit_scaling_law,
    interval,
    isoflop_parabolas,
    training_curve_envelope,
)
from hfcourse.scaling.early_stopping import fit_with_stock_optimizer
from hfcourse.scaling.kaplan import non_embedding_exponent
from hfcourse.scaling.laws import objective_of

# The replication of Chinchilla's approach 3 (https://huggingface.co/papers/2404.10102), for comparison.
REPLICATION = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
CONSTANTS = ("E", "A", "B", "alpha", "beta")


def read_runs(path: str | Path, columns: tuple[str, str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D and loss of a csv with a header. Raises InputError for a missing file, column or number."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"runs_csv: there is no file '{path}'")
    table = np.genfromtxt(path, delimiter=",", names=True, dtype=np.float64, encoding="utf-8")
    names = table.dtype.names or ()
    missing = [column for column in columns if column not in names]
    if missing:
        raise InputError(f"runs_csv: '{path}' has no column '{missing[0]}', only {', '.join(names)}; name yours")
    return tuple(np.atleast_1d(table[column]) for column in columns)


def describe_law(
    num_params: ArrayLike, num_tokens: ArrayLike, losses: ArrayLike, num_resamples: int = 500, seed: int = 0
) -> tuple[ScalingLaw, ScalingLaw, dict]:
    """The fitted law, its bootstrapped laws, and both as numbers for a file: approach 3, 2, and the averaged loss."""
    runs = num_params, num_tokens, losses
    law = fit_scaling_law(*runs)
    laws = bootstrap_laws(law, *runs, num_resamples, seed)
    averaged = fit_with_stock_optimizer(*runs, reduction="mean")
    numbers = {
        "num_runs": len(law_losses := np.asarray(losses)),
        "law": {name: getattr(law, name) for name in CONSTANTS},
        "interval": {name: interval(laws, lambda law, name=name: getattr(law, name)) for name in CONSTANTS},
        "a": law.exponents[0],
        "a_interval": interval(laws, lambda law: law.exponents[0]),
        "objective": objective_of(law, *runs),
        "residual_deviation": float(np.std(np.log(law.loss(num_params, num_tokens) / law_losses))),
        "averaged_loss": {
            **{name: getattr(averaged, name) for name in CONSTANTS},
            "a": averaged.exponents[0],
            "objective": objective_of(averaged, *runs),
        },
        "a_isoflop": exponent_or_none(lambda: isoflop_parabolas(*runs)),
        "a_without_embeddings": without_embeddings_or_none(law),
        "exchange_rate": exchange_rate_of_largest(law, *runs),
    }
    return law, laws, numbers


def law_text(law: ScalingLaw, numbers: dict) -> str:
    """The page of `recipes/scaling_laws.py`: the law, how sure it is, and what other ways of reading the runs say."""
    lines = [
        f"{numbers['num_runs']} runs                     95 % interval      averaged loss   Chinchilla, replicated"
    ]
    for name in CONSTANTS:
        low, high = numbers["interval"][name]
        others = f"{numbers['averaged_loss'][name]:>14.5g} {getattr(REPLICATION, name):>18.5g}"
        lines.append(f"{name:>9} {numbers['law'][name]:>10.5g}   [{low:>9.4g}, {high:>9.4g}] {others}")
    low, high = numbers["a_interval"]
    others = f"{numbers['averaged_loss']['a']:>14.4f} {REPLICATION.exponents[0]:>18.4f}"
    lines += [
        f"N* ∝ C^a {law.exponents[0]:>10.4f}   [{low:>9.4f}, {high:>9.4f}] {others}",
        f"objective {numbers['objective']:.5g}, "
        f"averaged instead of summed {numbers['averaged_loss']['objective']:.5g}",
        "a read otherwise: "
        + ", ".join(
            f"{label} {numbers[name]:.4f}"
            for name, label in (
                ("a_envelope_unfinished", "envelope of the curves (approach 1)"),
                ("a_isoflop", "isoFLOP parabolas (approach 2)"),
                ("a_without_embeddings", "N and C without embeddings, at Kaplan's sizes"),
            )
            if numbers.get(name) is not None
        ),
        "largest run, N {N:.3g}, D {D:.3g}: 1 % of parameters stands for {rate:.2f} % of tokens".format(
            **numbers["exchange_rate"]
        ),
    ]
    if "a_counted_as" in numbers:
        counted = numbers["a_counted_as"]
        lines.append(f"a of all parameters {counted['total']:.3f}, without embeddings {counted['non_embedding']:.3f}")
    if "budget" in numbers:
        lines.append("C = {flops:.3g}: N* {N:.3g}, D* {D:.3g}, loss {loss:.4f}".format(**numbers["budget"]))
    if "held_out" in numbers:
        text = "held out: foreseen {foreseen:.4f}, measured {loss:.4f}, error {error:+.2%}"
        lines.append(text.format(**numbers["held_out"]))
    return "\n".join(lines)


def exponent_or_none(frontier) -> float | None:
    """a of an approach, or None where the runs do not suffice for it."""
    try:
        return frontier().exponents[0]
    except InputError:
        return None


def without_embeddings_or_none(law: ScalingLaw) -> float | None:
    """a, were N and C counted without embeddings, as Kaplan did; None where no budget's best model is of his sizes.

    Pearce and Song's count, of models like Chinchilla's, whose N counted all (`hfcourse.scaling.kaplan`).
    """
    try:
        return non_embedding_exponent(law)
    except (TypeError, ValueError):
        return None


def exchange_rate_of_largest(law: ScalingLaw, num_params: ArrayLike, num_tokens: ArrayLike, losses: ArrayLike) -> dict:
    """What a per cent of parameters stands for, in per cent of tokens, at the run of most compute."""
    n, d = max(zip(num_params, num_tokens, strict=True), key=lambda run: run[0] * run[1])
    return {"N": float(n), "D": float(d), "rate": float(law.exchange_rate(n, d))}


def describe_sweep(records: list[dict], held_out: tuple[int, int] | None, count: str) -> tuple[ScalingLaw, dict]:
    """The law of a sweep's runs without the one held out, and what it foresaw of that.

    Beside it: a counted the other way (`a_counted_as`), and from curves whose learning rate had not decayed
    (`a_envelope_unfinished`): what parted Kaplan's exponents from Chinchilla's.
    """
    fitted = [r for r in records if (r["hidden_size"], r["num_tokens"]) != held_out]
    columns = {name: [r[name] for r in fitted] for name in ("total", "non_embedding", "num_tokens", "loss")}
    law, laws, numbers = describe_law(columns[count], columns["num_tokens"], columns["loss"])
    del numbers["a_without_embeddings"]  # supposes large models; here both were counted
    numbers["count"] = count
    numbers["a_counted_as"] = {
        name: fit_scaling_law(columns[name], columns["num_tokens"], columns["loss"]).exponents[0]
        for name in ("total", "non_embedding")
    }
    numbers["a_envelope_unfinished"] = exponent_or_none(lambda: training_curve_envelope(longest_curves(fitted, count)))
    numbers["unfinished_too_high"] = unfinished_gaps(fitted)
    numbers["minutes"] = sum(r["seconds"] for r in records) / 60
    for r in records:
        if (r["hidden_size"], r["num_tokens"]) == held_out:
            largest = max(n * d for n, d in zip(columns[count], columns["num_tokens"], strict=True))
            numbers["held_out"] = _foresight(law, laws, r[count], r["num_tokens"], r["loss"], largest)
    return law, numbers


def _foresight(law: ScalingLaw, laws: ScalingLaw, n: int, d: int, loss: float, largest: float) -> dict:
    foreseen = float(law.loss(n, d))
    return {
        "num_params": n,
        "num_tokens": d,
        "times_the_flops_of_the_largest_fitted": n * d / largest,
        "foreseen": foreseen,
        "interval": interval(laws, lambda law: law.loss(n, d)),
        "loss": loss,
        "error": foreseen / loss - 1,
    }


def longest_curves(records: list[dict], count: str) -> list[tuple[float, list[float], list[float]]]:
    """(N, tokens, losses) of each size's longest run."""
    longest = {r["hidden_size"]: r for r in sorted(records, key=lambda r: r["num_tokens"])}
    return [(r[count], *zip(*r["curve"], strict=True)) for r in longest.values()]


def unfinished_gaps(records: list[dict]) -> list[float]:
    """log L on the way of a size's longest run less log L of the run that ended there, its learning rate decayed."""
    gaps = []
    longest = {r["hidden_size"]: r for r in sorted(records, key=lambda r: r["num_tokens"])}
    for r in records:
        tokens, losses = zip(*longest[r["hidden_size"]]["curve"], strict=True)
        if tokens[0] <= r["num_tokens"] < tokens[-1]:
            on_the_way = np.interp(np.log(r["num_tokens"]), np.log(tokens), np.log(losses))
            gaps.append(float(on_the_way - np.log(r["loss"])))
    return gaps
