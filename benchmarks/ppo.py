"""PPO, ours and trl 1.12.0's, on the same model, prompts, lengths and epochs: samples a second, phases, memory.

    python benchmarks/ppo.py    # about twelve minutes of one core

Llama, 4 layers of width 256, vocabulary 8192, float32; 32 prompts of 32 tokens (and again of 96: `long_prompts`), 32
more each, 4 epochs, a reward model of the policy's size. TRL holds policy, reference, critic and reward model; ours in
full training policy, reference and reward model, with LoRA one base. Each runs in a process of its own, in turn,
twice. Seconds are of the core.

    F        one forward pass over all tokens, the head on completions: the faster of a plain pass that is measured
             and of its FLOPs at the rate of a matrix product
    floor    of four epochs: 12 F (forward, and twice that backward), with LoRA 8 F (the base needs no gradient)
    best     what the ratio to TRL would be at 16 F (scoring and reward passes among them) and a bare generation

Prints one line of JSON; writes ppo.json beside this file.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from references.preference_steps import tokenizer
from references.process_memory import memory
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from hfcourse import PPOConfig, PPOTrainer

HERE = Path(__file__).parent
PEER = HERE.parent / "runs" / "peers" / "trl-1.12.0"
VOCABULARY, WIDTH, INNER, LAYERS = 8192, 256, 688, 4
BATCH, PROMPTS, COMPLETION, EPOCHS = 32, {"short_prompts": 32, "long_prompts": 96}, 32, 4
ROLLOUTS, TURNS = 4, 2
GOALS = {
    "samples_per_s_ratio": (">=", 2.5),
    "train_over_floor": ("<=", 1.4),
    "generate_over_bare": ("<=", 1.15),
    "peak_memory_ratio_lora": ("<=", 0.4),
    "peak_memory_ratio_full": ("<=", 0.6),
}


def lora(task_type: str) -> LoraConfig:
    return LoraConfig(r=8, target_modules="all-linear", exclude_modules=["score", "lm_head"], task_type=task_type)


def make_models(folder: Path, prompt_length: int) -> None:
    """policy, reward (a whole model) and reward_adapter (on the policy's base), prompts and settings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=1, num_labels=1,
    )  # fmt: skip
    policy = LlamaForCausalLM(config)
    policy.save_pretrained(folder / "policy")
    reward = LlamaForSequenceClassification(config)
    reward.save_pretrained(folder / "reward")
    reward.model.load_state_dict(policy.model.state_dict())
    reward.config._name_or_path = str(folder / "policy")
    get_peft_model(reward, lora("SEQ_CLS")).save_pretrained(folder / "reward_adapter")
    for name in ("policy", "reward", "reward_adapter"):
        tokenizer().save_pretrained(folder / name)
    prompts = torch.randint(2, VOCABULARY, (BATCH, prompt_length)).tolist()
    (folder / "prompts.json").write_text(json.dumps(prompts))
    settings = {"batch": BATCH, "completion": COMPLETION, "epochs": EPOCHS}
    (folder / "settings.json").write_text(json.dumps(settings))


class Phases:
    """Core seconds of a trainer's phases, and forward passes over all tokens, with and without a gradient."""

    def __init__(self, trainer):
        self.seconds, self.tokens, self.trainer = Counter(), Counter(), trainer
        for name, phase in {
            "_generate": "generate",
            "_score_rollout": "score",
            "_calculate_rewards": "reward",
        }.items():
            setattr(trainer, name, self.timed(getattr(trainer, name), phase))
        models = [model for model in (trainer.model, trainer.ref_model) if model is not None]
        layers = [m for model in models for n, m in model.named_modules() if n.endswith("model.layers.0")]
        layers += [f.model.model.layers[0] for f in trainer.reward_funcs if hasattr(f.model, "model")]
        for layer in layers:
            layer.register_forward_pre_hook(self.count)

    def timed(self, function, phase: str):
        def call(*args, **kwargs):
            begin = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[phase] += time.process_time() - begin

        return call

    def count(self, _module, inputs) -> None:
        self.tokens[torch.is_grad_enabled()] += inputs[0].shape[0] * inputs[0].shape[1]


def run_ours(folder: Path, variant: str) -> dict:
    torch.set_num_threads(1)
    base = memory("VmRSS")
    prompts = json.loads((folder / "prompts.json").read_text())
    texts = [" ".join(f"w{i}" for i in ids) for ids in prompts]
    with_lora = variant == "lora"
    args = PPOConfig(
        str(folder / variant), use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        save_strategy="no", logging_steps=10**6, learning_rate=1e-5, per_device_train_batch_size=BATCH,
        num_iterations=EPOCHS, max_completion_length=COMPLETION, max_steps=EPOCHS * ROLLOUTS, beta=0.05,
    )  # fmt: skip
    trainer = PPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "policy"),
        str(folder / ("reward_adapter" if with_lora else "reward")),
        args,
        Dataset.from_dict({"prompt": texts * ROLLOUTS}),
        processing_class=tokenizer(),
        peft_config=lora("CAUSAL_LM") if with_lora else None,
    )
    phases, marks = Phases(trainer), [(time.process_time(), Counter())]

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            marks[:] = [(time.process_time(), Counter(phases.seconds))]

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % EPOCHS == 0:
                marks.append((time.process_time(), Counter(phases.seconds)))

    trainer.add_callback(Clock())
    trainer.train()
    rollouts = []
    for (start, before), (end, after) in pairwise(marks):
        own = {name: after[name] - before[name] for name in ("generate", "score", "reward")}
        rollouts.append({**own, "train": end - start - sum(own.values()), "total": end - start})
    peak = memory("VmHWM") - base
    tokens = BATCH * (len(prompts[0]) + COMPLETION) * ROLLOUTS
    backward = 1 if with_lora else 2
    return {
        "rollouts": rollouts,
        "seconds": [row["total"] for row in rollouts],
        "peak_mb": peak,
        "passes": (phases.tokens[False] + (1 + backward) * phases.tokens[True]) / tokens,
        "forward_seconds": forward_seconds(trainer, prompts),
        "generate_over_bare": generate_over_bare(trainer, texts, prompts),
    }


@torch.no_grad()
def forward_seconds(trainer, prompts) -> float:
    """F: the faster of a plain pass of the bare model and of its FLOPs at the rate of a matrix product."""
    model = LlamaForCausalLM(trainer.model.config).eval()
    ids = torch.cat([torch.tensor(prompts), torch.randint(2, VOCABULARY, (BATCH, COMPLETION))], 1)
    length = ids.shape[1]

    def plain():
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, -COMPLETION - 1 : -1]
        model.lm_head(hidden)

    a, b = torch.randn(BATCH * length, WIDTH), torch.randn(WIDTH, INNER)
    rate = 2 * a.shape[0] * WIDTH * INNER / best(lambda: a @ b, 20)
    per_layer = 4 * WIDTH**2 + 3 * WIDTH * INNER
    flops = 2 * LAYERS * per_layer * a.shape[0] + 2 * WIDTH * VOCABULARY * BATCH * COMPLETION
    flops += LAYERS * 4 * BATCH * length**2 * WIDTH  # QK' and its product with V
    return min(best(plain, 5), flops / rate)


def best(function, calls: int) -> float:
    seconds = []
    for _ in range(calls):
        begin = time.process_time()
        function()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def generate_over_bare(trainer, texts, prompts) -> float:
    """The trainer's generation, from texts to texts, over `model.generate` of the same ids; medians, in turn."""
    trainer.model.train()
    ids, times = torch.tensor(prompts), {"ours": [], "bare": []}
    arguments = dict(attention_mask=torch.ones_like(ids), generation_config=trainer.generation_config)

    @torch.no_grad()
    def bare():
        trainer.model.generate(input_ids=ids, **arguments)

    for _ in range(5):
        times["ours"].append(best(lambda: trainer._generate(texts), 1))
        trainer.model.eval()
        times["bare"].append(best(bare, 1))
        trainer.model.train()
    return statistics.median(times["ours"]) / statistics.median(times["bare"])


def run(command: list[str], **environment) -> dict:
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def run_peer(folder: Path) -> dict:
    if not (PEER / "trl").is_dir():
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEER), "trl==1.12.0"]
        subprocess.run(install, check=True)
    command = [sys.executable, str(HERE / "peers" / "trl_ppo_speed.py"), str(folder), str(ROLLOUTS)]
    return run(command, PYTHONPATH=f"{PEER}{os.pathsep}{HERE}")


def summary(runs: dict[str, list[dict]]) -> dict:
    def seconds(variant: str) -> float:
        """Of one rollout with its updates; the first of a run warms up."""
        return statistics.median(s for run in runs[variant] for s in run["seconds"][1:])

    def of(variant: str, name: str) -> float:
        return statistics.median(run[name] for run in runs[variant])

    def phase(variant: str, name: str) -> float:
        return statistics.median(row[name] for run in runs[variant] for row in run["rollouts"][1:])

    peer_mb = of("trl", "peak_mb")
    forward = of("full", "forward_seconds")
    result = {
        "samples_per_s_ratio": seconds("trl") / seconds("full"),
        "best_samples_per_s_ratio": seconds("trl") / (16 * forward + phase("full", "generate")),
        "samples_per_s_ratio_lora": seconds("trl") / seconds("lora"),
        "train_over_floor": phase("full", "train") / (12 * forward),
        "train_over_floor_lora": phase("lora", "train") / (8 * of("lora", "forward_seconds")),
        "generate_over_bare": of("full", "generate_over_bare"),
        "peak_memory_ratio_lora": of("lora", "peak_mb") / peer_mb,
        "peak_memory_ratio_full": of("full", "peak_mb") / peer_mb,
    }
    reached = {n: result[n] >= goal if sign == ">=" else result[n] <= goal for n, (sign, goal) in GOALS.items()}
    phases = ("generate", "score", "reward", "train")
    return {
        **{name: round(value, 2) for name, value in result.items()},
        "reached": reached,
        "passes": {v: round(of(v, "passes"), 2) for v in ("full", "lora")} | {"floor": {"full": 16, "lora": 12}},
        "seconds_a_rollout": {v: round(seconds(v), 2) for v in ("trl", "full", "lora")},
        "phases": {v: {p: round(phase(v, p), 2) for p in phases} for v in ("full", "lora")},
        "forward_seconds": round(forward, 3),
        "peak_mb": {v: round(of(v, "peak_mb")) for v in ("trl", "full", "lora")},
    }


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(run_ours(Path(sys.argv[1]), sys.argv[2])))
        return
    by_length = {name: summary(compare(length)) for name, length in PROMPTS.items()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    result = {"benchmark": "ppo", **by_length.pop("short_prompts"), **by_length, "versions": versions}
    line = json.dumps(result)
    Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


def compare(prompt_length: int) -> dict[str, list[dict]]:
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), prompt_length)
        runs = {"trl": [], "full": [], "lora": []}
        for _ in range(TURNS):
            runs["trl"].append(run_peer(Path(folder)))
            for variant in ("full", "lora"):
                runs[variant].append(run([sys.executable, __file__, folder, variant]))
            print(json.dumps({name: own[-1] for name, own in runs.items()}), file=sys.stderr, flush=True)
    return runs


if __name__ == "__main__":
    main()
