"""Reward hacking, drawn: PPO against reward models of people who like to hear certainty, beside the world's gold.

    python benchmarks/reward_hacking.py                                   # makes its SFT model by the demo's stages
    python benchmarks/reward_hacking.py --sft 'runs/demo_{seed}/sft' --num_workers 16        # one SFT model a seed

Five ways to the same few thousand answers of the SFT model, each with its own reward model and PPO run:

    few          300 pairs, judged by people
    clean        300 pairs, judged by the gold itself
    many         2000 pairs, judged by people
    beta         few, with ten times the β
    ensemble     few, four reward models on resampled pairs; an answer is worth what the least pleased gives

Every reward is scaled to deviation 1 on answers of the SFT model, so that one β means one thing. What is finished is
kept in `--folder` and not done again. Prints one line of JSON; writes reward_hacking.json and .png beside this file.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)  # fmt: skip

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from datasets import Dataset
from matplotlib import pyplot
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse import PPOConfig, PPOTrainer, RewardConfig, RewardTrainer
from hfcourse.callbacks import OveroptimizationCallback
from hfcourse.data import apply_template, load_dataset
from hfcourse.evaluation import generate
from hfcourse.evaluation.overoptimization import best_of_n_kl, best_of_n_means, fit_gold_curve
from hfcourse.models.reward_ensemble import RewardEnsemble
from hfcourse.models.reward_model import load_reward_model
from hfcourse.pipeline.files import read_json, write_json
from hfcourse.pipeline.life import life
from hfcourse.pipeline.stages import run_stages
from hfcourse.world import Annotators, false_confidence, gold_reward

HERE = Path(__file__).parent
SEEDS, NUM_LABELLED, HELD_OUT, DRAWS, MEMBERS = (0, 1, 2), 2600, 256, 32, 4
UPDATES_A_ROLLOUT = 8  # 2 epochs of 4
TITLES = {
    "few": "few pairs of people", "clean": "few pairs, judged truly", "many": "many pairs of people",
    "beta": "few pairs, larger β", "ensemble": "few pairs, 4 reward models",
}  # fmt: skip
COLOURS = {"few": "#c92a2a", "clean": "#2b8a3e", "many": "#1864ab", "beta": "#e8590c", "ensemble": "#5f3dc4"}
SAMPLING = dict(max_new_tokens=32, temperature=1.0, batch_size=128)


@dataclass(frozen=True)
class Settings:
    """What the figure depends on; each is a flag."""

    few: int = 300
    many: int = 2000
    beta: float = 0.02
    beta_factor: float = 10.0
    learning_rate: float = 1.6e-4
    rollouts: int = 24
    measured_every: int = 2


def world_rows(split: str, count: int) -> list[dict]:
    return list(apply_template(load_dataset("world/prompts", split, num_examples=count), "four_part_en"))


def kept(path: Path, make) -> dict:
    """What `make` returns, from the file where it was made before."""
    if not path.is_file():
        write_json(path, make())
    return read_json(path)


# ---------------------------------------------------------------------------- answers of the SFT model, and judgements


def labelled_pairs(sft: str, seed: int) -> dict[str, list[dict]]:
    """Two answers of the SFT model to each of many prompts; all pairs as people judge them, and as the gold does."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sft), AutoTokenizer.from_pretrained(sft)
    rows = world_rows("train", NUM_LABELLED)
    written = generate(model, tokenizer, [row["prompt"] for row in rows for _ in range(2)], seed=seed, **SAMPLING)
    texts = [w.text.strip() if w.finished else "" for w in written]
    people, of_people, of_gold = Annotators(8, seed), [], []
    for row, a, b in zip(rows, texts[::2], texts[1::2], strict=True):
        if a == b or not (a and b):
            continue
        columns = {name: [value] * 2 for name, value in row.items() if name != "prompt"}
        gold = gold_reward(None, [a, b], **columns)
        for pairs, a_is_better in (
            (of_people, people.compare(row, a, b, len(of_people) % people.num_annotators)),
            (of_gold, None if gold[0] == gold[1] else gold[0] > gold[1]),
        ):
            if a_is_better is not None:
                chosen, rejected = (a, b) if a_is_better else (b, a)
                pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    return {"people": of_people, "gold": of_gold}


def drawn_answers(sft: str, seed: int) -> dict:
    """DRAWS answers of the SFT model to each of 32 held-out prompts, for the scale and for best of n."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sft), AutoTokenizer.from_pretrained(sft)
    rows = [row for row in world_rows("test", 32) for _ in range(DRAWS)]
    written = generate(model, tokenizer, [row["prompt"] for row in rows], seed=seed, **SAMPLING)
    texts = [w.text for w in written]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    asked = {
        "prompts": [row["prompt"] for row in rows],
        "completions": texts,
        "completion_ids": [w.ids for w in written],
    }
    return {"asked": asked, "gold": gold_reward(None, texts, **columns)}


# --------------------------------------------------------------------------------------------------------- the proxies


def train_reward_model(sft: str, pairs: list[dict], folder: Path, seed: int) -> None:
    if (folder / "model.safetensors").is_file():
        return
    args = RewardConfig(
        str(folder), num_train_epochs=4 if len(pairs) < 1000 else 2, per_device_train_batch_size=16, seed=seed,
        learning_rate=5e-4, lr_scheduler_type="cosine", center_rewards_coefficient=0.01, use_cpu=True, bf16=False,
        save_strategy="no", disable_tqdm=True, logging_steps=10**6,
    )  # fmt: skip
    torch.manual_seed(seed)
    model, tokenizer = load_reward_model(sft), AutoTokenizer.from_pretrained(sft)
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


class Proxy:
    """What PPO optimises: the least of its reward models, in deviations on answers of the SFT model."""

    __name__ = "proxy"

    def __init__(self, folders: list[str], answers: dict[str, list]):
        self.rewards, self.mean, self.deviation = RewardEnsemble(folders, "min"), 0.0, 1.0
        rewards = self(**answers)
        self.mean, self.deviation = statistics.fmean(rewards), statistics.pstdev(rewards)

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        rewards = self.rewards(prompts, completions, completion_ids)
        return [(reward - self.mean) / self.deviation for reward in rewards]


def best_of_n(proxy_rewards: list[float], gold: list[float]) -> list[dict]:
    """Means of proxy and gold where the proxy picks one of n answers, over the prompts."""
    starts = range(0, len(proxy_rewards), DRAWS)
    groups = [(proxy_rewards[i : i + DRAWS], gold[i : i + DRAWS]) for i in starts]
    return [
        {
            "n": n,
            "kl": best_of_n_kl(n),
            "proxy": statistics.fmean(best_of_n_means(own, own, n) for own, _ in groups),
            "gold": statistics.fmean(best_of_n_means(own, meant, n) for own, meant in groups),
        }
        for n in (1, 2, 4, 8, 16, 32)
    ]


# ------------------------------------------------------------------------------------------------------------ the runs


@dataclass(frozen=True)
class Bench:
    """Every job of the benchmark, for any process: what it needs lies in `folder`, and what it makes goes there.

    sft: folder of the SFT model; {seed} in it is the seed of a run.
    """

    sft: str
    folder: Path
    settings: Settings

    def answers(self, kind: str, seed: int) -> dict:
        make = {"pairs": labelled_pairs, "drawn": drawn_answers}[kind]
        return kept(self.folder / f"{kind}-{seed}.json", lambda: make(self.sft.format(seed=seed), seed))

    def reward_models(self, way: str, seed: int) -> list[Path]:
        names = [f"member{i}" for i in range(MEMBERS)] if way == "ensemble" else ["few" if way == "beta" else way]
        return [self.folder / f"reward-{name}-{seed}" for name in names]

    def train_reward_model(self, folder: Path) -> None:
        _, name, seed = folder.name.split("-")
        people, gold = self.answers("pairs", int(seed)).values()
        pairs = gold if name == "clean" else people
        pairs = pairs[: self.settings.many if name == "many" else self.settings.few]
        if name.startswith("member"):
            pairs = random.Random(folder.name).choices(pairs, k=len(pairs))
        train_reward_model(self.sft.format(seed=seed), pairs, folder, 100 * int(seed) + ord(name[-1]))

    def path(self, way: str, seed: int) -> Path:
        return self.folder / f"{way}-{seed}.json"

    def run(self, way: str, seed: int) -> dict:
        """One way with one seed: the measurements of its PPO run, and best of n under the same proxy."""
        return kept(self.path(way, seed), lambda: self._run(way, seed))

    def _run(self, way: str, seed: int) -> dict:
        drawn, sft = self.answers("drawn", seed), self.sft.format(seed=seed)
        proxy = Proxy(list(map(str, self.reward_models(way, seed))), drawn["asked"])
        args = PPOConfig(
            str(self.folder / "output"), seed=seed, use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no",
            per_device_train_batch_size=32, steps_per_generation=4, num_iterations=2, max_completion_length=32,
            learning_rate=self.settings.learning_rate, lr_scheduler_type="constant", vf_coef=0.5,
            beta=self.settings.beta * (self.settings.beta_factor if way == "beta" else 1.0),
            max_steps=self.settings.rollouts * UPDATES_A_ROLLOUT, logging_steps=10**6,
        )  # fmt: skip
        model, tokenizer = AutoModelForCausalLM.from_pretrained(sft), AutoTokenizer.from_pretrained(sft)
        prompts = Dataset.from_list(world_rows("train", 2000))
        trainer = PPOTrainer(model, proxy, args, prompts, processing_class=tokenizer)
        callback = OveroptimizationCallback(
            trainer,
            world_rows("test", HELD_OUT),
            gold_reward,
            measures={"falsely_confident": false_confidence},
            every=self.settings.measured_every * UPDATES_A_ROLLOUT,
        )
        trainer.add_callback(callback)
        trainer.train()
        last = callback.history[-1]
        print(way, seed, {name: round(last[name], 2) for name in ("kl", "proxy", "gold")}, file=sys.stderr, flush=True)
        return {
            "history": [{name: x for name, x in m.items() if name != "golds"} for m in callback.history],
            "warned": callback.has_warned,
            "best_of_n": best_of_n(proxy(**drawn["asked"]), drawn["gold"]),
        }


def run_all(bench: Bench, ways: list[str], seeds: list[int], num_workers: int) -> dict[str, list[dict]]:
    """The runs of each way, seeds in their order; `num_workers` processes of one thread each."""
    spawn = multiprocessing.get_context("spawn")
    pairs = [(way, seed) for way in ways for seed in seeds]
    to_do = [pair for pair in pairs if not bench.path(*pair).is_file()]
    kinds = {(kind, seed): None for kind in ("pairs", "drawn") for _, seed in to_do}
    models = {folder: None for pair in to_do for folder in bench.reward_models(*pair)}
    with ProcessPoolExecutor(num_workers, spawn, partial(torch.set_num_threads, 1)) as pool:
        list(pool.map(bench.answers, *zip(*kinds, strict=True)))
        list(pool.map(bench.train_reward_model, models))
        list(pool.map(bench.run, *zip(*to_do, strict=True)))
    runs = [bench.run(*pair) for pair in pairs]
    return {way: runs[i * len(seeds) : (i + 1) * len(seeds)] for i, way in enumerate(ways)}


# -------------------------------------------------------------------------------------------------------- what it says


def mean_curve(runs: list[dict], name: str) -> list[float]:
    return np.mean([[m[name] for m in run["history"]] for run in runs], axis=0).tolist()


def summary(runs: dict[str, list[dict]]) -> dict:
    """Of the mean curve of each way: where gold peaks, what it gains there and at the end, and Gao's fit."""
    ways = {}
    for way, own in runs.items():
        kl, gold, proxy = (mean_curve(own, name) for name in ("kl", "gold", "proxy"))
        gain, best = [g - gold[0] for g in gold], int(np.argmax(gold))
        curve = fit_gold_curve(kl, gain, "rl")
        picked = [[p["gold"] for p in run["best_of_n"]] for run in own]
        ways[way] = {
            "peak": {"d": round(kl[best] ** 0.5, 2), "gold": round(gold[best], 2), "proxy": round(proxy[best], 2)},
            "start": {"gold": round(gold[0], 2), "proxy": round(proxy[0], 2)},
            "end": {"d": round(kl[-1] ** 0.5, 2), "gold": round(gold[-1], 2), "proxy": round(proxy[-1], 2)},
            "lost_since_peak": [
                round(max(m["gold"] for m in r["history"]) - r["history"][-1]["gold"], 2) for r in own
            ],
            "falsely_confident": {
                i: round(mean_curve(own, "falsely_confident")[j], 3) for i, j in (("start", 0), ("end", -1))
            },
            "fit": {"alpha": round(curve.alpha, 3), "beta": round(curve.beta, 3), "r2": round(curve.r2, 3)},
            "warned": sum(run["warned"] for run in own),
            "best_of_32_gold": round(float(np.mean(picked, axis=0)[-1] - np.mean(picked, axis=0)[0]), 2),
        }
    return ways


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    panels = {"gold": "gold reward", "proxy": "proxy, deviations", "falsely_confident": "share falsely confident"}
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for place, (name, label) in zip(axes, panels.items(), strict=True):
        for way, own in runs.items():
            for run in own:
                d = [m["kl"] ** 0.5 for m in run["history"]]
                place.plot(d, [m[name] for m in run["history"]], color=COLOURS[way], alpha=0.25, linewidth=1)
            d = [kl**0.5 for kl in mean_curve(own, "kl")]
            place.plot(d, mean_curve(own, name), color=COLOURS[way], linewidth=2.2, label=TITLES[way])
        place.set(xlabel="√KL from the SFT model, nats", ylabel=label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sft", help="An SFT model of the world; {seed} is filled in. Made by the demo's stages if not given."
    )
    parser.add_argument("--folder", type=Path, default=HERE.parent / "runs" / "reward_hacking")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--ways", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--num_workers", type=int, default=1)
    for field in fields(Settings):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    flags = parser.parse_args()
    settings = Settings(**{field.name: getattr(flags, field.name) for field in fields(Settings)})
    flags.folder.mkdir(parents=True, exist_ok=True)
    if kept(flags.folder / "settings.json", lambda: asdict(settings)) != asdict(settings):
        parser.error(f"{flags.folder} holds runs of other settings; give another --folder")
    if flags.sft is None:
        run_stages(life(flags.folder / "life", HERE.parent / "recipes")[:3], flags.folder / "life")
    sft = flags.sft or str(flags.folder / "life" / "sft")
    runs = run_all(Bench(sft, flags.folder, settings), flags.ways, flags.seeds, flags.num_workers)
    result = {"benchmark": "reward_hacking", "seeds": flags.seeds, **asdict(settings), "ways": summary(runs)}
    if set(flags.ways) == set(TITLES):
        Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        draw(runs, Path(__file__).with_suffix(".png"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
