"""Reward against KL: how far below the exact frontier do trainers end, over a grid of β?

    python benchmarks/exact_frontier.py    # four values of β, four trainers each: about five minutes on one quiet core

On the world of exact.py every policy is a point (KL(π ‖ π_ref), E_π[r]); none lies above the curve of the exact optima
π*_β, on which β only says where. PPO, REINFORCE and DPO are ours, RLOO is TRL's; the best of n draws is computed, not
drawn, beside the bound log n - (n - 1)/n of its KL. The gap of a point is the reward that the curve has at its KL,
less its own. Prints one line of JSON; writes exact_frontier.json, .md and .png beside this file.
"""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
from exact import FOLDER, TRAINERS, save_world, train

from hfcourse.evaluation.enumerable import EnumerableWorld
from hfcourse.rl import best_of_n_policy

HERE = Path(__file__).parent
BETAS = (0.25, 0.5, 1.0, 2.0)
METHODS = ("ppo", "reinforce", "trl_rloo", "dpo")
DRAWS = (2, 4, 8, 16, 32)
TITLES = {"ppo": "PPO", "reinforce": "REINFORCE", "trl_rloo": "RLOO (TRL)", "dpo": "DPO", "best_of_n": "best of n"}
MARKERS = {"ppo": "o", "reinforce": "s", "trl_rloo": "D", "dpo": "^", "best_of_n": "x"}
SEED, EXACT_BETA = 0, 0.5


def curve(world: EnumerableWorld) -> list[tuple[float, float]]:
    """(KL, reward) of π* from a β where nothing moves to one beyond the last point, in small steps."""
    points = []
    for i in range(400):
        beta = 50 * 0.98**i
        score = world.score(world.tilted(beta))
        points.append((score["kl_to_reference"], score["reward"]))
    return points


def reward_on(curve_points: list[tuple[float, float]], kl: float) -> float:
    """The frontier's reward at this KL, between its two nearest points."""
    for (kl_0, reward_0), (kl_1, reward_1) in pairwise(curve_points):
        if kl_0 <= kl <= kl_1:
            return reward_0 + (reward_1 - reward_0) * (kl - kl_0) / (kl_1 - kl_0)
    raise ValueError(f"KL {kl} is outside of the curve")


def point(method: str, knob: str, score: dict, curve_points) -> dict:
    kl, reward = score["kl_to_reference"], score["reward"]
    gap = reward_on(curve_points, kl) - reward
    return {"method": method, "knob": knob, "kl": round(kl, 4), "reward": round(reward, 4), "gap": round(gap, 5)}


def trained(curve_points) -> list[dict]:
    points = []
    for beta in BETAS:
        world = EnumerableWorld.make(beta=beta)
        save_world(world)
        for method in METHODS:
            of_exact = beta == EXACT_BETA  # that run is this one
            kept = FOLDER / (f"{method}-{SEED}.json" if of_exact else f"frontier-{method}-{beta}.json")
            if not kept.is_file():
                kept.write_text(json.dumps(train(method, world, SEED)), encoding="utf-8")
                print(f"β = {beta}: {method} {kept.read_text()}", file=sys.stderr, flush=True)
            points.append(point(method, f"β = {beta:g}", json.loads(kept.read_text()), curve_points))
    return points


def best_of_n(world: EnumerableWorld, curve_points) -> list[dict]:
    points = []
    for n in DRAWS:
        score = world.score(best_of_n_policy(world.ref_logps, world.rewards, n))
        bound = math.log(n) - (n - 1) / n
        points.append({**point("best_of_n", f"n = {n}", score, curve_points), "kl_bound": round(bound, 4)})
    return points


def table(points: list[dict]) -> str:
    lines = ["| method | | KL(π ‖ π_ref), nats | E[r] | below the frontier |", "|---|---|--:|--:|--:|"]
    for p in points:
        bound = f" (bound {p['kl_bound']:.3f})" if "kl_bound" in p else ""
        lines.append(
            f"| {TITLES[p['method']]} | {p['knob']} | {p['kl']:.3f}{bound} | {p['reward']:.3f} | {p['gap']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def draw(points: list[dict], curve_points, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    right = 1.05 * max(p["kl"] for p in points)
    axes.plot(*zip(*[p for p in curve_points if p[0] <= right], strict=True), color="#868e96", label="π*, exact")
    for method, title in TITLES.items():
        own = [(p["kl"], p["reward"]) for p in points if p["method"] == method]
        axes.plot(*zip(*own, strict=True), MARKERS[method], label=title, markersize=6, markerfacecolor="none")
    axes.set(xlabel="KL(π ‖ π_ref), nats", ylabel="E[r]", xlim=(0, right), title="Reward against KL, over β and n")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=90, facecolor="white")


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    assert set(METHODS) <= set(TRAINERS)
    world = EnumerableWorld.make()
    curve_points = curve(world)
    points = trained(curve_points) + best_of_n(world, curve_points)
    largest = {m: max((p for p in points if p["method"] == m), key=lambda p: p["gap"]) for m in TITLES}
    (HERE / "exact_frontier.md").write_text(table(points), encoding="utf-8")
    draw(points, curve_points, HERE / "exact_frontier.png")
    line = json.dumps({"benchmark": "exact_frontier", "seed": SEED, "largest_gap": largest, "points": points})
    (HERE / "exact_frontier.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
