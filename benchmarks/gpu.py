"""One GPU: a step of DPO and of the reward model, and rollouts of PPO, ours and TRL's in the same run, in bfloat16.

    python benchmarks/gpu.py                 # some three minutes; says so and stops where there is no GPU
    python benchmarks/gpu.py --tiny          # the same on small shapes, on whatever device there is

A Llama of SmolLM2-135M's shape with random weights (30 layers of width 576, vocabulary 49152), trained in bfloat16
autocast without gradient checkpointing. DPO and the reward model: 8 pairs a step, prompt : answer 256 : 256,
1024 : 256 and 2048 : 256, references precomputed; "trl" is TRL's trainer, "plain" ours with `shared_prefix=False`,
"ours" the default. PPO: 64 prompts of 128 tokens, 128 more each, four epochs, a reward model of the policy's size,
beside trl 1.12.0's, the last that had PPO (`--peer` is a folder that holds it). Wall clock, the device waited for;
memory is the most that tensors held (`max_memory_allocated`). Prints one line of JSON; writes gpu.json beside this
file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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
from peft import LoraConfig
from references.device_clock import peak_mb, reset_peak, seconds, wait
from references.preference_steps import VOCAB_SIZE, step_of, text_pairs, tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from hfcourse import DPOConfig, DPOTrainer, PPOConfig, PPOTrainer, RewardConfig, RewardTrainer

HERE = Path(__file__).parent
ON_GPU = torch.cuda.is_available()
SIZES = {  # answers and prompts of the pairs, pairs a step, rounds; PPO's batch, prompt, completion, epochs, rollouts
    "full": dict(answer=256, prompts={"1:1": 256, "4:1": 1024, "8:1": 2048}, pairs=8, rounds=7,
                 batch=64, prompt=128, completion=128, epochs=4, rollouts=4),
    "tiny": dict(answer=8, prompts={"1:1": 8, "4:1": 32}, pairs=2, rounds=2,
                 batch=4, prompt=8, completion=8, epochs=2, rollouts=2),
}  # fmt: skip
TRAINERS = {
    "dpo": (LlamaForCausalLM, trl.DPOTrainer, trl.DPOConfig, DPOTrainer, DPOConfig),
    "reward": (LlamaForSequenceClassification, trl.RewardTrainer, trl.RewardConfig, RewardTrainer, RewardConfig),
}


def llama(tiny: bool) -> LlamaConfig:
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=1, num_labels=1, max_position_embeddings=4096)
    if tiny:
        shape = dict(vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        return LlamaConfig(**shape, num_attention_heads=2, **ids)
    shape = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30)
    return LlamaConfig(**shape, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, **ids)


def settings(folder: str, **more) -> dict:
    quiet = dict(report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=10**6, learning_rate=1e-5)
    return dict(output_dir=folder, use_cpu=not ON_GPU, bf16=ON_GPU, gradient_checkpointing=False, **quiet, **more)


def preference_step(method: str, variant: str, pairs: Dataset, size: dict, tiny: bool):
    model_class, their_trainer, their_config, our_trainer, our_config = TRAINERS[method]
    torch.manual_seed(0)
    more = dict(max_length=None, per_device_train_batch_size=size["pairs"], max_steps=1)
    if method == "dpo":
        more["precompute_ref_log_probs"] = True
    with tempfile.TemporaryDirectory() as folder:
        if variant == "trl":
            trainer_class, args = their_trainer, their_config(**settings(folder, **more))
        else:
            shared = None if variant == "ours" else False
            trainer_class, args = our_trainer, our_config(**settings(folder, **more), shared_prefix=shared)
        trainer = trainer_class(model_class(llama(tiny)), args=args, train_dataset=pairs, processing_class=tokenizer())
    return step_of(trainer, size["pairs"])


def preferences(method: str, size: dict, tiny: bool) -> dict:
    """Of each shape: medians of a step's seconds, taken in turn, their ratios within a round, and peak memory."""
    results = {}
    for shape, prompt in size["prompts"].items():
        pairs = text_pairs([(prompt, size["answer"], size["answer"])] * size["pairs"])
        times, peaks = {}, {}
        for variant in ("trl", "plain", "ours"):  # one at a time in memory, or no peak would be its own
            step = preference_step(method, variant, pairs, size, tiny)
            step()
            reset_peak()
            times[variant] = [seconds(step) for _ in range(size["rounds"])]
            peaks[variant] = round(peak_mb())
            del step
        median = {variant: statistics.median(own) for variant, own in times.items()}
        results[shape] = {
            "seconds": {variant: round(own, 4) for variant, own in median.items()},
            "trl_over_ours": round(median["trl"] / median["ours"], 2),
            "plain_over_ours": round(median["plain"] / median["ours"], 2),
            "peak_mb": peaks,
        }
        print(method, shape, json.dumps(results[shape]), file=sys.stderr, flush=True)
    return results


def make_models(folder: Path, size: dict, tiny: bool) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(llama(tiny)).save_pretrained(folder / "policy")
    LlamaForSequenceClassification(llama(tiny)).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        tokenizer().save_pretrained(folder / name)
    prompts = torch.randint(2, VOCAB_SIZE, (size["batch"], size["prompt"])).tolist()
    (folder / "prompts.json").write_text(json.dumps(prompts))
    shared = {name: size[name] for name in ("batch", "completion", "epochs")}
    (folder / "settings.json").write_text(json.dumps(shared | {"on_gpu": ON_GPU}))


def our_rollouts(folder: Path, variant: str, size: dict) -> dict:
    prompts = json.loads((folder / "prompts.json").read_text())
    texts = [" ".join(f"w{i}" for i in ids) for ids in prompts]
    more = dict(per_device_train_batch_size=size["batch"], num_iterations=size["epochs"], beta=0.05)
    more |= dict(max_completion_length=size["completion"], max_steps=size["epochs"] * size["rollouts"])
    lora = LoraConfig(r=8, target_modules="all-linear", exclude_modules=["lm_head"], task_type="CAUSAL_LM")
    trainer = PPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "policy"),
        str(folder / "reward"),
        PPOConfig(**settings(str(folder / variant), **more)),
        Dataset.from_dict({"prompt": texts * size["rollouts"]}),
        processing_class=tokenizer(),
        peft_config=lora if variant == "lora" else None,
    )
    marks = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            reset_peak()
            marks.append(time.perf_counter())

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % size["epochs"] == 0:
                wait()
                marks.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    return {"seconds": [end - start for start, end in pairwise(marks)], "peak_mb": peak_mb()}


def run(command: list[str], **environment) -> dict:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def ppo(peer: Path, size: dict, size_name: str, tiny: bool) -> dict:
    """Seconds of a rollout with its updates, the first of a run left out, and memory, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, size, tiny)
        runs = {
            variant: run([sys.executable, __file__, "--rollouts", variant, name, "--size", size_name])
            for variant in ("full", "lora")
        }
        script = [sys.executable, str(HERE / "peers" / "trl_ppo_speed.py"), name, str(size["rollouts"])]
        before = os.environ.get("PYTHONPATH", "")
        runs["trl"] = run(script, PYTHONPATH=os.pathsep.join([str(peer), str(HERE), before]))
    median = {variant: statistics.median(own["seconds"][1:]) for variant, own in runs.items()}
    return {
        "seconds_a_rollout": {variant: round(own, 3) for variant, own in median.items()},
        "samples_per_s_ratio": round(median["trl"] / median["full"], 2),
        "samples_per_s_ratio_lora": round(median["trl"] / median["lora"], 2),
        "peak_mb": {variant: round(own["peak_mb"]) for variant, own in runs.items()},
        "peak_memory_ratio_full": round(runs["full"]["peak_mb"] / runs["trl"]["peak_mb"], 2),
        "peak_memory_ratio_lora": round(runs["lora"]["peak_mb"] / runs["trl"]["peak_mb"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes; writes no file")
    parser.add_argument("--peer", type=Path, default=HERE.parent / "runs" / "peers" / "trl-1.12.0")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rollouts", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--size", default="full", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rollouts:
        print(json.dumps(our_rollouts(Path(args.rollouts[1]), args.rollouts[0], SIZES[args.size])))
        return
    if not ON_GPU and not args.tiny:
        print("no GPU here: benchmarks/gpu.py left out")
        return
    name = "tiny" if args.tiny else "full"
    size = SIZES[name]
    line = {"benchmark": "gpu", **{method: preferences(method, size, args.tiny) for method in TRAINERS}}
    if (args.peer / "trl").is_dir():
        line["ppo"] = ppo(args.peer, size, name, args.tiny)
        print("ppo", json.dumps(line["ppo"]), file=sys.stderr, flush=True)
    line["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    line["device"] = torch.cuda.get_device_name() if ON_GPU else "CPU"
    print(json.dumps(line))
    if not args.tiny:
        args.output.write_text(json.dumps(line) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
