"""The planner's formulas against what training does here: five models, CLM, DPO and PPO.

    python benchmarks/planner.py                  # every case, each in a process of its own; about ten minutes
    python benchmarks/planner.py --case llama ppo # one of them

FLOPs: `torch.utils.flop_counter` over one optimizer step (PPO: one rollout with its updates), with eager attention,
whose products the counter sees. Memory: the highest resident set of the second step or rollout, when the moments are
there, over the resident set before the model was built (Linux alone: /proc/self/clear_refs). float32, one CPU thread.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {
    "llama": dict(hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=8),
    "llama_gqa": dict(hidden_size=320, intermediate_size=864, num_hidden_layers=4, num_attention_heads=10,
                      num_key_value_heads=2, tie_word_embeddings=True),
    "llama_deep": dict(hidden_size=192, intermediate_size=512, num_hidden_layers=12, num_attention_heads=6),
    "qwen3": dict(hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=8,
                  num_key_value_heads=4, head_dim=32, tie_word_embeddings=True),
    "gpt2": dict(n_embd=256, n_layer=6, n_head=8, n_positions=512, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
}  # fmt: skip
METHODS = ("clm", "dpo", "ppo")
VOCAB_SIZE = 4096
BOUNDS = {"flops": 0.05, "memory": 0.15}


def batch_of(method: str):
    from hfcourse.scaling.methods import Batch

    sizes = {"clm": Batch(8, 0, 128), "dpo": Batch(3, 64, 64), "ppo": Batch(8, 48, 48, num_iterations=2)}
    return sizes[method]


def config_of(name: str):
    from transformers import GPT2Config, LlamaConfig, Qwen3Config

    kind = {"gpt2": GPT2Config, "qwen3": Qwen3Config}.get(name, LlamaConfig)
    # EOS is the last id: a random model hardly ever writes it, so that completions have their whole length.
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": VOCAB_SIZE - 1}
    return kind(vocab_size=VOCAB_SIZE, **ids, **MODELS[name])


def tokenizer_of():
    """A word a token: w2 … w4094."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<bos>": 1, **{f"w{i}": i for i in range(2, VOCAB_SIZE - 1)}, "<eos>": VOCAB_SIZE - 1}
    bpe = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="left"
    )


def text(length: int, start: int) -> str:
    return " ".join(f"w{2 + (7 * start + 13 * i) % (VOCAB_SIZE - 3)}" for i in range(length))


def trainer_of(name: str, method: str, folder: str):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from hfcourse import CausalLMConfig, CausalLMTrainer, DPOConfig, DPOTrainer, PPOConfig, PPOTrainer

    torch.manual_seed(0)
    batch, model = batch_of(method), AutoModelForCausalLM.from_config(config_of(name))
    common = dict(max_steps=2, per_device_train_batch_size=batch.size, save_strategy="no", use_cpu=True, bf16=False)
    common |= dict(disable_tqdm=True, logging_steps=100, gradient_checkpointing=False)
    if method == "clm":
        blocks = torch.randint(2, VOCAB_SIZE - 1, (16, batch.length)).tolist()
        data = Dataset.from_dict({"input_ids": blocks})
        return CausalLMTrainer(model, CausalLMConfig(folder, **common), train_dataset=data)
    if method == "dpo":  # the completion ends in EOS, which the trainer adds
        rows = range(8)
        data = Dataset.from_dict(
            {
                "prompt": [text(batch.prompt_length, i) for i in rows],
                "chosen": [" " + text(batch.completion_length - 1, 100 + i) for i in rows],
                "rejected": [" " + text(batch.completion_length - 1, 200 + i) for i in rows],
            }
        )
        # What is planned is the plain batch: prompts shared by chosen and rejected only make it less.
        args = DPOConfig(folder, max_length=None, shared_prefix=False, **common)
        return DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer_of())
    args = PPOConfig(
        folder, **common | {"max_steps": 4}, num_iterations=2, max_completion_length=batch.completion_length, beta=0.05
    )
    data = Dataset.from_dict({"prompt": [text(batch.prompt_length, i) for i in range(16)]})
    rewards = [lambda completions, **columns: [float(len(c) % 7) for c in completions]]
    return PPOTrainer(model, rewards, args=args, train_dataset=data, processing_class=tokenizer_of())


def resident() -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    gc.collect()
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    if sys.platform != "linux":
        return 0
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def warm_up(folder: str) -> None:
    """Imports, thread pools and the libraries' own buffers belong to no model: one step of a tiny one brings them."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    from hfcourse import CausalLMConfig, CausalLMTrainer, DPOTrainer, PPOTrainer  # noqa: F401

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    data = Dataset.from_dict({"input_ids": [[5] * 8] * 4})
    args = CausalLMConfig(folder, max_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True, logging_steps=9)
    CausalLMTrainer(LlamaForCausalLM(config), args, train_dataset=data).train()


def measure(name: str, method: str) -> dict:
    """FLOPs of the first step (rollout), peak bytes of the second."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import PrinterCallback, TrainerCallback

    with tempfile.TemporaryDirectory() as folder:
        warm_up(folder)
        gc.collect()
        base = resident()
        trainer = trainer_of(name, method, folder)
        trainer.remove_callback(PrinterCallback)
        counter, first, seen = FlopCounterMode(display=False), 2 if method == "ppo" else 1, {}

        class Between(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == first:
                    counter.__exit__(None, None, None)
                    seen["flops"] = counter.get_total_flops()
                    for model in (trainer.model, getattr(trainer, "ref_model", None)):
                        if model is not None:
                            model.set_attn_implementation("sdpa")
                    forget_peak()

        trainer.add_callback(Between())
        for model in (trainer.model, getattr(trainer, "ref_model", None)):
            if model is not None:
                model.set_attn_implementation("eager")
        counter.__enter__()
        trainer.train()
        return {"flops": seen["flops"], "memory": peak() - base}


def planned(name: str, method: str) -> dict:
    from hfcourse.scaling.flops import method_flops
    from hfcourse.scaling.memory import training_memory
    from hfcourse.scaling.shapes import shape_of_config

    shape, batch = shape_of_config(config_of(name)), batch_of(method)
    return {
        "flops": method_flops(shape, method, batch),
        "memory": training_memory(shape, method, "none", batch).peak,
        "params": shape.num_params,
    }


def in_a_process(name: str, method: str) -> dict:
    # A fixed threshold keeps every tensor in a mapping of its own, which is given back when it is freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, "--case", name, method]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {method}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=2, metavar=("MODEL", "METHOD"))
    case = parser.parse_args().case
    if case:
        print(json.dumps({**measure(*case)}))
        return
    start, rows = time.perf_counter(), {}
    for name in MODELS:
        for method in METHODS:
            plan, seen = planned(name, method), in_a_process(name, method)
            row = {f"{what}_error": round(plan[what] / seen[what] - 1, 4) for what in BOUNDS}
            rows[f"{name}, {method}"] = {
                **row,
                "mb": round(seen["memory"] / 1e6),
                "gflop": round(seen["flops"] / 1e9, 1),
            }
            print(f"{name:>10} {method}", rows[f"{name}, {method}"], flush=True)
    worst = {what: max(abs(row[f"{what}_error"]) for row in rows.values()) for what in BOUNDS}
    result = {
        "benchmark": "planner",
        "cases": rows,
        "worst_flops_error": worst["flops"],
        "worst_memory_error": worst["memory"],
        "within_bounds": all(worst[what] <= bound for what, bound in BOUNDS.items()),
        "seconds": round(time.perf_counter() - start),
    }
    line = json.dumps(result)
    Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
