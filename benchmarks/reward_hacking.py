"""Reward hacking, drawn: best of n and PPO against imperfect reward models, beside the world's gold.

    python benchmarks/reward_hacking.py --num_workers 2                   # makes its SFT models by the demo's stages
    python benchmarks/reward_hacking.py --sft 'runs/demo_{seed}/sft' --num_workers 16

Proxies of what is meant, learnt from pairs of the SFT model's answers:

    few          400 pairs, judged by the gold with noise: a is preferred to b with probability σ((a - b) / 1.5)
    clean        the same 400 pairs, judged truly
    many         these and 4,400 more, judged with noise
    ensemble     few, four reward models that began differently; an answer is worth what the least pleased gives

Best of n under each of them, whose KL is known exactly; and PPO against the few, with a small and with 25 times the
β. Every reward is scaled to deviation 1 on answers of the SFT model, so that one β means one thing. What 400 labels
teach is luck: there are six sets of them, each with a reward model of a kind (of few, four), and the curve of a kind
is the mean over the sets; that of PPO is the mean of two runs, each against another set's. What is finished is kept
in `--folder` and not done again. Prints one line of JSON; writes reward_hacking.json and .png beside this file.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)  # fmt: skip

import torch
from datasets import Dataset
from references.hacking_figure import draw, summary
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse import PPOConfig, PPOTrainer, RewardConfig, RewardTrainer
from hfcourse.callbacks import OveroptimizationCallback
from hfcourse.data import apply_template, load_dataset
from hfcourse.evaluation import generate
from hfcourse.evaluation.overoptimization import best_of_n_kl, best_of_n_means
from hfcourse.models.reward_ensemble import RewardEnsemble
from hfcourse.models.reward_model import load_reward_model
from hfcourse.pipeline.files import read_json, write_json
from hfcourse.pipeline.life import life
from hfcourse.pipeline.stages import run_stages
from hfcourse.world import false_confidence, gold_reward

HERE = Path(__file__).parent
SEEDS, NUM_LABELLED, HELD_OUT = (3, 4, 5), 6000, 1024  # 0, 1, 2 are those on which the design was settled
SETS, MEMBERS, PPO_SETS = 6, 4, 2
PROMPTS, DRAWS = 64, 128  # of best of n
UPDATES_A_ROLLOUT = 8  # 2 epochs of 4
PICKING, OPTIMISING = ("few", "clean", "many", "ensemble"), ("few", "beta")  # ways of best of n, and of PPO
MAX_NEW_TOKENS = 48  # nearly every answer ends: what a reward model says of one that is cut off is no judgement
SAMPLING = dict(max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, batch_size=256)


@dataclass(frozen=True)
class Settings:
    """What the figure depends on; each is a flag."""

    few: int = 400
    many: int = 4800
    noise: float = 1.5
    beta: float = 0.02
    beta_factor: float = 25.0
    learning_rate: float = 1e-4
    rollouts: int = 16
    measured_every: int = 1


def make_sft(folder: Path, seed: int) -> None:
    """The demo's first stages, in a folder of the seed's own."""
    root = folder / f"life-{seed}"
    run_stages(life(root, HERE.parent / "recipes", seed)[:3], root)


def world_rows(split: str, count: int) -> list[dict]:
    return list(apply_template(load_dataset("world/prompts", split, num_examples=count), "four_part_en"))


def kept(path: Path, make) -> dict:
    """What `make` returns, from the file where it was made before."""
    if not path.is_file():
        write_json(path, make())
    return read_json(path)


# ---------------------------------------------------------------------------- answers of the SFT model, and judgements


def drawn_pairs(sft: str, seed: int) -> list[dict]:
    """Two different answers of the SFT model to each of many prompts, and their gold."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sft), AutoTokenizer.from_pretrained(sft)
    rows = world_rows("train", NUM_LABELLED)
    written = generate(model, tokenizer, [row["prompt"] for row in rows for _ in range(2)], seed=seed, **SAMPLING)
    texts = [w.text.strip() if w.finished else "" for w in written]
    pairs = []
    for row, *answers in zip(rows, texts[::2], texts[1::2], strict=True):
        if answers[0] != answers[1] and all(answers):
            columns = {name: [value] * 2 for name, value in row.items() if name != "prompt"}
            pairs.append({"prompt": row["prompt"], "answers": answers, "gold": gold_reward(None, answers, **columns)})
    return pairs


def judged(pairs: list[dict], noise: float, seed: str) -> list[dict]:
    """Preferences: a over b with probability σ((gold_a - gold_b) / noise); without noise ties do not count."""
    rng, preferences = random.Random(f"judge/{seed}"), []
    for pair in pairs:
        (a, b), difference = pair["answers"], pair["gold"][0] - pair["gold"][1]
        if noise or difference:
            a_is_better = rng.random() < 1 / (1 + math.exp(-difference / noise)) if noise else difference > 0
            chosen, rejected = (a, b) if a_is_better else (b, a)
            preferences.append({"prompt": pair["prompt"], "chosen": chosen, "rejected": rejected})
    return preferences


def drawn_answers(sft: str, seed: int) -> dict:
    """DRAWS answers of the SFT model to each of PROMPTS held-out prompts, for the scale and for best of n."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sft), AutoTokenizer.from_pretrained(sft)
    rows = [row for row in world_rows("test", PROMPTS) for _ in range(DRAWS)]
    written = generate(model, tokenizer, [row["prompt"] for row in rows], seed=seed, **SAMPLING)
    texts = [w.text for w in written]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    asked = {
        "prompts": [row["prompt"] for row in rows],
        "completions": texts,
        "completion_ids": [w.ids for w in written],
    }
    truth = {"gold": gold_reward, "falsely_confident": false_confidence}
    return {"asked": asked, **{name: function(None, texts, **columns) for name, function in truth.items()}}


# --------------------------------------------------------------------------------------------------------- the proxies


def train_reward_model(sft: str, pairs: list[dict], folder: Path, seed: int) -> None:
    if (folder / "model.safetensors").is_file():
        return
    args = RewardConfig(
        str(folder), num_train_epochs=4 if len(pairs) < 1000 else 3, per_device_train_batch_size=16, seed=seed,
        learning_rate=5e-4, lr_scheduler_type="cosine", center_rewards_coefficient=0.01, use_cpu=True, bf16=False,
        save_strategy="no", disable_tqdm=True, logging_steps=10**6,
    )  # fmt: skip
    torch.manual_seed(seed)
    model, tokenizer = load_reward_model(sft), AutoTokenizer.from_pretrained(sft)
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


class Proxy:
    """What PPO optimises: a reward model, in deviations on answers of the SFT model."""

    __name__ = "proxy"

    def __init__(self, folder: str, rewards_of_answers: list[float]):
        self.reward = RewardEnsemble([folder])
        self.mean, self.deviation = statistics.fmean(rewards_of_answers), statistics.pstdev(rewards_of_answers)

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        return [(reward - self.mean) / self.deviation for reward in self.reward(prompts, completions, completion_ids)]


def best_of_n(rewards: list[float], drawn: dict) -> list[dict]:
    """Means of proxy, gold and false confidence where the proxy picks one of n answers, over the prompts."""
    mean_reward, deviation = statistics.fmean(rewards), statistics.pstdev(rewards)
    proxy_rewards = [(reward - mean_reward) / deviation for reward in rewards]
    values = {"proxy": proxy_rewards, "gold": drawn["gold"], "falsely_confident": drawn["falsely_confident"]}
    rows = range(0, len(proxy_rewards), DRAWS)

    def mean(name: str, n: int) -> float:
        groups = ((proxy_rewards[i : i + DRAWS], values[name][i : i + DRAWS]) for i in rows)
        return statistics.fmean(best_of_n_means(proxy, of, n) for proxy, of in groups)

    sizes = sorted({round(2 ** (i / 2)) for i in range(2 * DRAWS.bit_length() - 1)})
    return [{"n": n, "kl": best_of_n_kl(n), **{name: mean(name, n) for name in values}} for n in sizes]


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
        make = {"pairs": drawn_pairs, "drawn": drawn_answers}[kind]
        return kept(self.folder / f"{kind}-{seed}.json", lambda: make(self.sft.format(seed=seed), seed))

    def reward_model(self, kind: str, number: int, member: int, seed: int) -> Path:
        """Folder of what one set of labels taught one reward model."""
        return self.folder / f"reward-{kind}-{number}-{member}-{seed}"

    def train_reward_model(self, kind: str, number: int, member: int, seed: int) -> None:
        count = self.settings.many if kind == "many" else self.settings.few
        first = number * self.settings.few
        pairs = self.answers("pairs", seed)
        own = (pairs[first:] + pairs[:first])[:count]
        preferences = judged(own, 0.0 if kind == "clean" else self.settings.noise, f"{number}/{seed}")
        folder = self.reward_model(kind, number, member, seed)
        train_reward_model(self.sft.format(seed=seed), preferences, folder, 100 * seed + 10 * member + number)

    def rewards(self, kind: str, number: int, member: int, seed: int) -> list[float]:
        """What the reward model gives the SFT model's answers; trains it where it is missing."""
        folder = self.reward_model(kind, number, member, seed)

        def score() -> list[float]:
            self.train_reward_model(kind, number, member, seed)
            return RewardEnsemble([str(folder)])(**self.answers("drawn", seed)["asked"])

        return kept(folder.with_suffix(".json"), score)

    def best_of_n(self, way: str, seed: int) -> list[dict]:
        """The mean curve of the way's proxies."""
        drawn, curves = self.answers("drawn", seed), []
        for number in range(SETS):
            kind, members = ("few", MEMBERS) if way in ("few", "ensemble") else (way, 1)
            rewards = [self.rewards(kind, number, member, seed) for member in range(members)]
            proxies = [list(map(min, zip(*rewards, strict=True)))] if way == "ensemble" else rewards
            curves += [best_of_n(proxy, drawn) for proxy in proxies]
        return mean_of(curves)

    def ppo(self, way: str, number: int, seed: int) -> dict:
        """The measurements of a run against a reward model of few pairs, and whether it warned."""
        return kept(self.folder / f"ppo-{way}-{number}-{seed}.json", lambda: self._ppo(way, number, seed))

    def _ppo(self, way: str, number: int, seed: int) -> dict:
        sft = self.sft.format(seed=seed)
        proxy = Proxy(str(self.reward_model("few", number, 0, seed)), self.rewards("few", number, 0, seed))
        args = PPOConfig(
            str(self.folder / "output"), use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no",
            per_device_train_batch_size=64, steps_per_generation=4, num_iterations=2, seed=100 * seed + number,
            max_completion_length=MAX_NEW_TOKENS, lr_scheduler_type="constant", vf_coef=0.5,
            learning_rate=self.settings.learning_rate,
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
        end = {name: round(last[name], 2) for name in ("kl", "proxy", "gold")}
        print(way, number, seed, end, file=sys.stderr, flush=True)
        return {
            "history": [{name: x for name, x in m.items() if name != "golds"} for m in callback.history],
            "warned": callback.has_warned,
        }


def mean_of(curves: list[list[dict]]) -> list[dict]:
    """The mean over curves, measurement by measurement."""
    return [{name: statistics.fmean(m[name] for m in same) for name in same[0]} for same in zip(*curves, strict=True)]


def run_all(bench: Bench, seeds: list[int], num_workers: int, with_sft: bool) -> None:
    """Make whatever `bench.folder` does not hold; `num_workers` processes of one thread each."""
    sets, optimised = range(SETS), range(PPO_SETS)
    few = list(product(["few"], sets, range(MEMBERS), seeds))
    others = list(product(["clean", "many"], sets, [0], seeds))
    jobs = [
        *([(make_sft, list(product([bench.folder], seeds)))] if with_sft else []),
        (bench.answers, list(product(("pairs", "drawn"), seeds))),
        (bench.rewards, few + others),
        (bench.ppo, list(product(OPTIMISING, optimised, seeds))),
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, partial(torch.set_num_threads, 1)) as pool:
        for function, arguments in jobs:
            list(pool.map(function, *zip(*arguments, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sft", help="SFT models of the world; {seed} is filled in. Made by the demo's stages if not given."
    )
    parser.add_argument("--folder", type=Path, default=HERE.parent / "runs" / "reward_hacking")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--num_workers", type=int, default=1)
    for field in fields(Settings):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    flags = parser.parse_args()
    settings = Settings(**{field.name: getattr(flags, field.name) for field in fields(Settings)})
    flags.folder.mkdir(parents=True, exist_ok=True)
    if kept(flags.folder / "settings.json", lambda: asdict(settings)) != asdict(settings):
        parser.error(f"{flags.folder} holds runs of other settings; give another --folder")
    bench = Bench(flags.sft or str(flags.folder / "life-{seed}" / "sft"), flags.folder, settings)
    run_all(bench, flags.seeds, flags.num_workers, with_sft=flags.sft is None)
    runs = {
        way: [[bench.ppo(way, number, seed) for number in range(PPO_SETS)] for seed in flags.seeds]
        for way in OPTIMISING
    }
    curves = {
        "best of n": {way: [bench.best_of_n(way, seed) for seed in flags.seeds] for way in PICKING},
        "PPO": {way: [mean_of([run["history"] for run in own]) for own in of_seeds] for way, of_seeds in runs.items()},
    }
    result = {
        "benchmark": "reward_hacking",
        "seeds": flags.seeds,
        **asdict(settings),
        **{
            method: {way: summary(own, "rl" if method == "PPO" else "best_of_n") for way, own in by_way.items()}
            for method, by_way in curves.items()
        },
        "warned": {way: sum(run["warned"] for own in of_seeds for run in own) for way, of_seeds in runs.items()},
    }
    if tuple(flags.seeds) == SEEDS:
        Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        draw(curves, Path(__file__).with_suffix(".png"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
