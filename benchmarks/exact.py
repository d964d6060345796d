"""How near to the exact optimum do trainers come, ours and TRL's, on a world whose answers can be listed?

    python benchmarks/exact.py                     # five seeds of six trainers, about twenty minutes on one quiet core
    python benchmarks/exact.py --seeds 0 1         # some of them now; finished seeds are kept in runs/exact

Every trainer starts at the reference, 0.721 nats from π*, and gets its budget by its public API: 150 × 256 episodes,
or 20,000 pairs twice over. Scored by KL(π ‖ π*), which is the regret over β. Each seed runs all trainers one after the
other, on one core, so that their times can be compared (on a core that others share by `core_seconds`, not by the
clock's); TRL's PPO, gone since 1.13, runs in a process of its own on trl 1.12.0, installed into runs/peers. Prints one
line of JSON and writes exact.json beside this file.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip

import torch
import transformers
import trl
from transformers import AutoModelForCausalLM

from hfcourse import DPOConfig, DPOTrainer, PPOConfig, PPOTrainer, REINFORCEConfig, REINFORCETrainer
from hfcourse.evaluation.enumerable import EnumerableWorld

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs"
FOLDER, PEER = RUNS / "exact", RUNS / "peers" / "trl-1.12.0"
EPISODES, ROLLOUTS, PAIRS = 256, 150, 20_000
LEARNING_RATE = 2e-3  # of all that sample; PPO takes 4 epochs a rollout in both libraries, the others one update
SEEDS = range(5)
# KL(π ‖ π*) in nats, over at least five seeds: the median must reach it, the worst stay within twice the median.
GOALS = {"ppo": 0.006, "reinforce": 0.012, "dpo": 0.05}
PEER_OF = {"ppo": "trl_ppo", "reinforce": "trl_rloo", "dpo": "trl_dpo"}


def common(seed: int, **settings) -> dict:
    return dict(
        output_dir=str(FOLDER / "output"), seed=seed, use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=10**6, lr_scheduler_type="linear",
        **settings,
    )  # fmt: skip


def rollouts(seed: int, beta: float, **settings) -> dict:
    return common(seed, beta=beta, max_completion_length=4, **{"per_device_train_batch_size": EPISODES, **settings})


def ppo(world: EnumerableWorld, seed: int):
    """Our critic is a head on the policy's trunk: with TRL's weight of 0.1, made for a critic with a trunk of its own,
    it explains half of the returns' variance here, with 1 four fifths."""
    epochs, settings = 4, {"learning_rate": LEARNING_RATE, "vf_coef": 1.0}
    args = PPOConfig(**rollouts(seed, world.beta, **settings), num_iterations=epochs, max_steps=epochs * ROLLOUTS)
    return PPOTrainer(world.policy(), world.reward, args, world.prompts(1024), processing_class=world.tokenizer)


def reinforce(world: EnumerableWorld, seed: int):
    settings = {
        "learning_rate": LEARNING_RATE,
        "max_steps": ROLLOUTS,
        "baseline": "leave_one_out",
        "num_generations": 4,
    }
    args = REINFORCEConfig(**rollouts(seed, world.beta, **settings))
    return REINFORCETrainer(world.policy(), world.reward, args, world.prompts(1024), processing_class=world.tokenizer)


def trl_rloo(world: EnumerableWorld, seed: int):
    settings = {"learning_rate": LEARNING_RATE, "max_steps": ROLLOUTS, "num_generations": 4}
    args = trl.RLOOConfig(**rollouts(seed, world.beta, **settings))
    reference = str(FOLDER / "world" / "reference")  # TRL loads its reference by the model's name
    return trl.RLOOTrainer(reference, world.reward, args, world.prompts(1024), processing_class=world.tokenizer)


def preference_args(world: EnumerableWorld, seed: int) -> dict:
    return common(seed, beta=world.beta, learning_rate=1e-3, per_device_train_batch_size=64, num_train_epochs=2)


def dpo(world: EnumerableWorld, seed: int):
    args, pairs = DPOConfig(**preference_args(world, seed)), world.preferences(PAIRS, seed)
    return DPOTrainer(world.policy(), args=args, train_dataset=pairs, processing_class=world.tokenizer)


def trl_dpo(world: EnumerableWorld, seed: int):
    args, pairs = trl.DPOConfig(**preference_args(world, seed)), world.preferences(PAIRS, seed)
    return trl.DPOTrainer(world.policy(), world.policy(), args, train_dataset=pairs, processing_class=world.tokenizer)


TRAINERS = {"ppo": ppo, "reinforce": reinforce, "trl_rloo": trl_rloo, "dpo": dpo, "trl_dpo": trl_dpo}


def train(name: str, world: EnumerableWorld, seed: int) -> dict[str, float]:
    """The exact score of what a trainer leaves, and the seconds of its `train()`, of the clock and of the core."""
    if name == "trl_ppo":
        return train_trl_ppo(world, seed)
    trainer = TRAINERS[name](world, seed)
    wall, core = time.perf_counter(), time.process_time()
    trainer.train()
    seconds = {"seconds": time.perf_counter() - wall, "core_seconds": time.process_time() - core}
    return world.score(trainer.model) | seconds


def save_world(world: EnumerableWorld) -> Path:
    folder = FOLDER / "world"
    world.reference.save_pretrained(folder / "reference")
    world.tokenizer.save_pretrained(folder / "reference")
    ids_of = {prompt: world.tokenizer(prompt)["input_ids"] for prompt in world.prompts(4)["prompt"]}
    torch.save(
        {(*ids_of[prompt], *ids): reward for (prompt, ids), reward in world.table.items()}, folder / "rewards.pt"
    )
    torch.save([ids_of[prompt] for prompt in world.prompts(1024)["prompt"]], folder / "prompts.pt")
    return folder


def train_trl_ppo(world: EnumerableWorld, seed: int) -> dict[str, float]:
    if not (PEER / "trl").is_dir():
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEER), "trl==1.12.0"]
        subprocess.run(install, check=True)
    folder = save_world(world)
    command = [sys.executable, str(HERE / "peers" / "trl_ppo.py"), str(folder)]
    command += map(str, (seed, world.beta, LEARNING_RATE, ROLLOUTS))
    environment = {**os.environ, "PYTHONPATH": str(PEER), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return world.score(AutoModelForCausalLM.from_pretrained(folder / "policy")) | json.loads(
        done.stdout.splitlines()[-1]
    )


def run_seed(seed: int, with_trl: bool) -> dict[str, dict[str, float]]:
    """What each trainer comes to with this seed; kept in runs/exact, so that an interrupted benchmark goes on."""
    world, results = EnumerableWorld.make(), {}
    save_world(world)
    for name in (n for pair in PEER_OF.items() for n in pair[: 1 + with_trl]):
        kept = FOLDER / f"{name}-{seed}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(train(name, world, seed)), encoding="utf-8")
            print(f"seed {seed}: {name} {kept.read_text()}", file=sys.stderr, flush=True)
        results[name] = json.loads(kept.read_text(encoding="utf-8"))
    return results


def summary(runs: list[dict]) -> dict:
    """Over the seeds: every KL to the optimum, its median and worst, and the median times."""
    methods = {}
    for name in (n for pair in PEER_OF.items() for n in pair):
        own = [run[name] for run in runs if name in run]
        kls = [run["kl_to_optimum"] for run in own]
        methods[name] = {
            "kl_to_optimum": [round(kl, 5) for kl in kls],
            "median": round(statistics.median(kls), 5),
            "worst": round(max(kls), 5),
            "seconds": round(statistics.median(run["seconds"] for run in own), 1),
            "core_seconds": round(statistics.median(run["core_seconds"] for run in own), 1),
        }
    return {"methods": methods, "verdicts": {name: verdict(name, methods[name], runs) for name in GOALS}}


def verdict(name: str, ours: dict, runs: list[dict]) -> dict:
    """Against the goal over all seeds, and against TRL's trainer over the seeds that both have run."""
    pairs = [(run[name], run[PEER_OF[name]]) for run in runs if PEER_OF[name] in run]

    def ratio(key: str) -> float:
        return round(statistics.median(a[key] for a, _ in pairs) / statistics.median(b[key] for _, b in pairs), 3)

    return {
        "goal": GOALS[name],
        "reached": ours["median"] <= GOALS[name],
        "worst_over_median": round(ours["worst"] / ours["median"], 2),
        "over_trl": {key: ratio(key) for key in ("kl_to_optimum", "seconds", "core_seconds")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--trl_seeds", type=int, nargs="+", default=list(SEEDS), help="Those that TRL's trainers run.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    runs = [run_seed(seed, seed in arguments.trl_seeds) for seed in arguments.seeds]
    world = EnumerableWorld.make()
    result = {
        "benchmark": "exact",
        "world": {"prompts": 4, "answers": 781, "beta": world.beta, "start": world.score(world.reference)},
        "seeds": arguments.seeds,
        "trl_seeds": [seed for seed in arguments.seeds if seed in arguments.trl_seeds],
        **summary(runs),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "machine": f"{platform.machine()}, one thread; where others share the core, only core_seconds compare",
    }
    line = json.dumps(result)
    if len(arguments.seeds) >= len(SEEDS):
        (HERE / "exact.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
