"""How often do 95 % intervals hold the truth? Planted laws, 400 noisy data sets a row, half a minute each.

    python benchmarks/scaling_coverage.py

Designs: grids of 16 and 36 runs, 100 runs at random; noise of 0.5 % on the loss, normal or with heavy tails
(Student's t, 3 degrees of freedom). The standard error of a share of 0.95 is 0.011.
"""

import json
import time
from pathlib import Path

import numpy as np

from hfcourse.scaling import ScalingLaw, bootstrap_laws, fit_scaling_law, interval

LAW = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
NUM_DATA_SETS, NUM_RESAMPLES, NOISE = 400, 200, 0.005
QUANTITIES = {
    "E": lambda law: law.E,
    "alpha": lambda law: law.alpha,
    "beta": lambda law: law.beta,
    "a": lambda law: law.exponents[0],
    "N* at 1e23": lambda law: np.log(law.compute_optimal(1e23)[0]),
    "loss of a run 10 times larger": lambda law: law.loss(1e11, 3e12),
}


def design(name: str):
    if name == "random":
        rng = np.random.default_rng(0)
        return 10 ** rng.uniform(7, 10, 100), 10 ** rng.uniform(9, 11.5, 100)
    side = int(name)
    return tuple(x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, side), np.geomspace(1e9, 3e11, side)))


def coverage(name: str, tails: str) -> dict[str, float]:
    n, d = design(name)
    held = dict.fromkeys(QUANTITIES, 0)
    for seed in range(NUM_DATA_SETS):
        rng = np.random.default_rng(10_000 + seed)
        noise = rng.normal(size=len(n)) if tails == "normal" else rng.standard_t(3, len(n)) / np.sqrt(3)
        losses = LAW.loss(n, d) * np.exp(NOISE * noise)
        laws = bootstrap_laws(fit_scaling_law(n, d, losses), n, d, losses, NUM_RESAMPLES, seed)
        for quantity, of in QUANTITIES.items():
            low, high = interval(laws, of)
            held[quantity] += bool(low <= of(LAW) <= high)
    return {quantity: round(count / NUM_DATA_SETS, 3) for quantity, count in held.items()}


def main():
    start, rows = time.perf_counter(), {}
    for name, tails in (("4", "normal"), ("6", "normal"), ("random", "normal"), ("6", "heavy")):
        rows[f"{name}, {tails}"] = coverage(name, tails)
        print(f"{name:>6} {tails:<6}", rows[f"{name}, {tails}"], flush=True)
    shares = [share for row in rows.values() for share in row.values()]
    result = {
        "benchmark": "scaling_coverage",
        "level": 0.95,
        "data_sets": NUM_DATA_SETS,
        "coverage": rows,
        "mean": round(float(np.mean(shares)), 4),
        "lowest": min(shares),
        "highest": max(shares),
        "seconds": round(time.perf_counter() - start),
    }
    line = json.dumps(result)
    Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
