"""Reward hacking, drawn: PPO against reward models of people who like to hear certainty, beside the world's gold.

    python benchmarks/reward_hacking.py                        # makes its SFT model by the demo's stages first
    python benchmarks/reward_hacking.py --sft runs/demo/sft    # three seeds, about 25 minutes of one core

Five ways to the same few thousand answers of the SFT model, each with its own reward model and PPO run:

    few          100 pairs, judged by people
    clean        100 pairs, judged by the gold itself
    many         1000 pairs, judged by people
    beta         few, with ten times the β
    ensemble     few, four reward models on resampled pairs; an answer is worth what the least pleased gives

Every reward is scaled to deviation 1 on answers of the SFT model, so that one β means one thing. Finished runs are
kept in runs/reward_hacking. Prints one line of JSON; writes reward_hacking.json and .png beside this file.
"""

import argparse
import json
import os
import random
import statistics
import sys
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
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
from hfcourse.models.reward_model import load_reward_model, score
from hfcourse.pipeline.life import life
from hfcourse.pipeline.stages import run_stages
from hfcourse.world import Annotators, false_confidence, gold_reward

HERE = Path(__file__).parent
FOLDER = HERE.parent / "runs" / "reward_hacking"
SEEDS = (0, 1, 2)
BETA, ROLLOUTS, MEASURED_EVERY, UPDATES_A_ROLLOUT = 0.02, 24, 3, 4
FEW, MANY, NUM_LABELLED, HELD_OUT, DRAWS = 100, 1000, 1600, 96, 32
MEMBERS = 4
WAYS = {"few": BETA, "clean": BETA, "many": BETA, "beta": 10 * BETA, "ensemble": BETA}
TITLES = {
    "few": "100 pairs of people", "clean": "100 pairs, judged truly", "many": "1000 pairs of people",
    "beta": "100 pairs, 10 β", "ensemble": "100 pairs, 4 reward models",
}  # fmt: skip
COLOURS = {"few": "#c92a2a", "clean": "#2b8a3e", "many": "#1864ab", "beta": "#e8590c", "ensemble": "#5f3dc4"}
SAMPLING = dict(max_new_tokens=32, temperature=1.0, batch_size=128)


def sft_model() -> Path:
    """The demo's life up to instruction tuning, in runs/reward_hacking/life."""
    run_stages(life(FOLDER / "life", HERE.parent / "recipes")[:3], FOLDER / "life")
    return FOLDER / "life" / "sft"


def world_rows(split: str, count: int) -> list[dict]:
    return list(apply_template(load_dataset("world/prompts", split, num_examples=count), "four_part_en"))


def labelled_pairs(sft: Path, seed: int) -> dict[str, list[dict]]:
    """Two answers of the SFT model to each of many prompts; the pairs of people, and the first few judged by gold."""
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
    return {"few": of_people[:FEW], "many": of_people[:MANY], "clean": of_gold[:FEW]}


def train_reward_model(sft: Path, pairs: list[dict], folder: Path, seed: int) -> Path:
    if not (folder / "model.safetensors").is_file():
        rows = Dataset.from_list(pairs)
        args = RewardConfig(
            str(folder), num_train_epochs=8 if len(pairs) <= FEW else 3, per_device_train_batch_size=16, seed=seed,
            learning_rate=5e-4, lr_scheduler_type="cosine", center_rewards_coefficient=0.01, use_cpu=True, bf16=False,
            save_strategy="no", disable_tqdm=True, logging_steps=10**6,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(sft)
        torch.manual_seed(seed)
        trainer = RewardTrainer(load_reward_model(str(sft)), args, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        trainer.save_model()
    return folder


class Proxy:
    """What PPO optimises: the least of its reward models, in deviations on answers of the SFT model."""

    __name__ = "proxy"

    def __init__(self, folders: list[Path], tokenizer):
        self.models, self.tokenizer = [load_reward_model(str(folder)) for folder in folders], tokenizer
        self.mean, self.deviation = [0.0] * len(folders), [1.0] * len(folders)

    def scale_on(self, prompts, texts, finished) -> None:
        for i, model in enumerate(self.models):
            rewards = score(model, self.tokenizer, prompts, texts, finished)
            self.mean[i], self.deviation[i] = statistics.fmean(rewards), statistics.pstdev(rewards)

    def of(self, prompts, texts, finished) -> list[float]:
        own = []
        for model, mean, deviation in zip(self.models, self.mean, self.deviation, strict=True):
            rewards = score(model, self.tokenizer, prompts, texts, finished)
            own.append([(reward - mean) / deviation for reward in rewards])
        return [min(column) for column in zip(*own, strict=True)]

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        return self.of(prompts, completions, [ids[-1] == self.tokenizer.eos_token_id for ids in completion_ids])


def make_proxy(way: str, sft: Path, seed: int, pairs: dict[str, list[dict]]) -> Proxy:
    tokenizer, data = AutoTokenizer.from_pretrained(sft), pairs[way if way in pairs else "few"]
    if way == "ensemble":
        draw = random.Random(seed)
        folders = [
            train_reward_model(
                sft, draw.choices(data, k=len(data)), FOLDER / f"reward-member{i}-{seed}", 100 * seed + i
            )
            for i in range(MEMBERS)
        ]
    else:
        name = way if way in pairs else "few"
        folders = [train_reward_model(sft, data, FOLDER / f"reward-{name}-{seed}", seed)]
    return Proxy(folders, tokenizer)


def drawn_answers(sft: Path, seed: int) -> dict:
    """DRAWS answers of the SFT model to each of 32 held-out prompts, for the scale and for best of n."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sft), AutoTokenizer.from_pretrained(sft)
    rows = [row for row in world_rows("test", 32) for _ in range(DRAWS)]
    written = generate(model, tokenizer, [row["prompt"] for row in rows], seed=seed, **SAMPLING)
    texts = [w.text for w in written]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    gold = gold_reward(None, texts, **columns)
    return {
        "prompts": [row["prompt"] for row in rows], "texts": texts,
        "finished": [w.finished for w in written], "gold": gold,
    }  # fmt: skip


def best_of_n(drawn: dict, proxy_rewards: list[float]) -> list[dict]:
    points = []
    for n in (1, 2, 4, 8, 16, 32):
        means = {"proxy": [], "gold": []}
        for start in range(0, len(proxy_rewards), DRAWS):
            of_prompt = slice(start, start + DRAWS)
            own = {"proxy": proxy_rewards[of_prompt], "gold": drawn["gold"][of_prompt]}
            for name, values in own.items():
                means[name].append(best_of_n_means(own["proxy"], values, n))
        points.append({"n": n, "kl": best_of_n_kl(n), **{name: statistics.fmean(x) for name, x in means.items()}})
    return points


def run(way: str, sft: Path, seed: int) -> dict:
    """One way with one seed: the measurements of its PPO run, and best of n under the same proxy."""
    kept = FOLDER / f"{way}-{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    pairs_file, drawn_file = FOLDER / f"pairs-{seed}.json", FOLDER / f"drawn-{seed}.json"
    for path, make in ((pairs_file, labelled_pairs), (drawn_file, drawn_answers)):
        if not path.is_file():
            path.write_text(json.dumps(make(sft, seed)), encoding="utf-8")
    drawn = json.loads(drawn_file.read_text(encoding="utf-8"))
    proxy = make_proxy(way, sft, seed, json.loads(pairs_file.read_text(encoding="utf-8")))
    on = (drawn["prompts"], drawn["texts"], drawn["finished"])
    proxy.scale_on(*on)
    args = PPOConfig(
        str(FOLDER / "output"), seed=seed, use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no",
        per_device_train_batch_size=32, steps_per_generation=2, num_iterations=2, learning_rate=1e-3,
        lr_scheduler_type="constant", max_steps=ROLLOUTS * UPDATES_A_ROLLOUT, max_completion_length=32,
        beta=WAYS[way], vf_coef=0.5, logging_steps=10**6,
    )  # fmt: skip
    prompts = Dataset.from_list(world_rows("train", 2000))
    trainer = PPOTrainer(
        AutoModelForCausalLM.from_pretrained(sft),
        proxy,
        args,
        prompts,
        processing_class=AutoTokenizer.from_pretrained(sft),
    )
    callback = OveroptimizationCallback(
        trainer,
        world_rows("test", HELD_OUT),
        gold_reward,
        measures={"falsely_confident": false_confidence},
        every=MEASURED_EVERY * UPDATES_A_ROLLOUT,
    )
    trainer.add_callback(callback)
    trainer.train()
    result = {
        "history": [{name: x for name, x in m.items() if name != "golds"} for m in callback.history],
        "warned": callback.has_warned,
        "best_of_n": best_of_n(drawn, proxy.of(*on)),
    }
    kept.write_text(json.dumps(result), encoding="utf-8")
    last = result["history"][-1]
    print(way, seed, {name: round(last[name], 2) for name in ("kl", "proxy", "gold")}, file=sys.stderr, flush=True)
    return result


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
    parser.add_argument("--sft", type=Path, help="An SFT model of the world. Made by the demo's stages if not given.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    sft, runs = arguments.sft or sft_model(), {way: [] for way in arguments.ways}
    settings = {"beta": BETA, "rollouts": ROLLOUTS, "few": FEW, "many": MANY, "held_out": HELD_OUT}
    for i, seed in enumerate(arguments.seeds):
        for way in arguments.ways:
            runs[way].append(run(way, sft, seed))
        result = {"benchmark": "reward_hacking", "seeds": arguments.seeds[: i + 1], **settings, "ways": summary(runs)}
        if set(arguments.ways) == set(WAYS):  # after every seed: it takes long, and may be interrupted
            Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
            draw(runs, Path(__file__).with_suffix(".png"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
