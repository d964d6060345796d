"""One run of a sweep: a small Llama, trained on so many tokens by CausalLMTrainer, its held-out loss recorded."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

from hfcourse.errors import InputError
from hfcourse.pipeline.files import write_json
from hfcourse.pipeline.sweep import SweepArguments, run_file

CURVE_POINTS = 8  # evaluations on the way, evenly spaced in log tokens, the last at the end
SHARE_BEFORE_FIRST_POINT = 1 / 16
ROWS_FOR_TOKENIZER = 5000
EVAL_BATCH_SIZE = 32


def prepare(args: SweepArguments, script_args, folder: Path) -> None:
    """Leave tokenizer and packed blocks in `folder`, once for all runs. Raises InputError if the text is too short."""
    from hfcourse.data import load_dataset, pack_documents
    from hfcourse.pipeline.launch import load_tokenizer
    from hfcourse.tokenization import train_tokenizer

    most = max(tokens for _, tokens in (*args.grid(), args.held_out or args.grid()[0]))
    if not (folder / "data.json").is_file():
        documents = {
            split: load_dataset(
                script_args.dataset_name,
                split=name,
                config=script_args.dataset_config,
                num_examples=num_examples,
                required_columns=(args.text_column,),
            )
            for split, name, num_examples in (
                ("train", script_args.dataset_train_split, script_args.num_train_examples),
                ("test", script_args.dataset_test_split, script_args.num_eval_examples),
            )
        }
        if args.tokenizer_name_or_path is None:
            texts = documents["train"][:ROWS_FOR_TOKENIZER][args.text_column]
            tokenizer = train_tokenizer(texts, args.vocab_size)
        else:
            tokenizer = load_tokenizer(args.tokenizer_name_or_path)
        tokenizer.save_pretrained(folder / "tokenizer")
        counts = {"vocab_size": len(tokenizer)}
        for split, dataset in documents.items():
            blocks = pack_documents(dataset, tokenizer, args.block_size, args.text_column)
            blocks.save_to_disk(folder / "data" / split)
            counts[split] = len(blocks)
        write_json(folder / "data.json", counts)
    have = json.loads((folder / "data.json").read_text(encoding="utf-8"))["train"] * args.block_size
    if have < most:
        raise InputError(f"num_tokens: a run of {most} tokens, but the text has {have}; give more num_train_examples")


def config_of(args: SweepArguments, hidden_size: int, folder: Path):
    """A Llama whose embeddings are tied and whose three MLP matrices have the parameters of two of 4 × the width."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=json.loads((folder / "data.json").read_text(encoding="utf-8"))["vocab_size"],
        hidden_size=hidden_size,
        intermediate_size=-(-8 * hidden_size // 12) * 4,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        max_position_embeddings=args.block_size,
        tie_word_embeddings=True,
    )


def sizes_of(args: SweepArguments, hidden_size: int, folder: Path) -> dict[str, int]:
    """{"total": N, "non_embedding": N without the embeddings} of a width."""
    import torch
    from transformers import LlamaForCausalLM

    config = config_of(args, hidden_size, folder)
    with torch.device("meta"):
        total = LlamaForCausalLM(config).num_parameters()
    return {"total": total, "non_embedding": total - config.vocab_size * hidden_size}


def train_run(args: SweepArguments, run: tuple[int, int], folder: Path, num_threads: int) -> dict:
    """Train a (width, tokens) and record it: `loss` at the end, `curve` of (tokens, loss) on the way, `seconds`."""
    import torch
    from datasets import load_from_disk
    from transformers import LlamaForCausalLM, PrinterCallback, TrainerCallback, set_seed

    from hfcourse.pipeline.launch import load_tokenizer
    from hfcourse.trainers import CausalLMConfig, CausalLMTrainer

    class EvaluateAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = state.global_step in points

    width, num_tokens = run
    torch.set_num_threads(num_threads)
    steps = num_tokens // args.tokens_a_step
    points = set(
        np.geomspace(max(1, steps * SHARE_BEFORE_FIRST_POINT), steps, CURVE_POINTS).round().astype(int).tolist()
    )
    peak = args.peak_learning_rate(width, num_tokens)
    scratch = folder / "runs" / f"scratch{os.getpid()}"
    config = CausalLMConfig(
        str(scratch),
        max_steps=steps,
        per_device_train_batch_size=args.per_device_train_batch_size,
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        learning_rate=peak,
        lr_scheduler_type="cosine",
        warmup_steps=args.warmup_share,
        weight_decay=args.weight_decay,
        adam_beta2=0.95,
        save_strategy="no",
        logging_steps=steps,
        disable_tqdm=True,
        seed=args.seed,
    )
    set_seed(args.seed)
    train = load_from_disk(str(folder / "data" / "train")).select(range(num_tokens // args.block_size))
    test = load_from_disk(str(folder / "data" / "test"))
    model, tokenizer = LlamaForCausalLM(config_of(args, width, folder)), load_tokenizer(str(folder / "tokenizer"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # the trainer would, and say so once a run
        setattr(model.config, name, getattr(tokenizer, name))
        setattr(model.generation_config, name, getattr(tokenizer, name))
    trainer = CausalLMTrainer(
        model,
        config,
        train_dataset=train,
        eval_dataset=test.select(range(min(args.num_eval_blocks, len(test)))),
        processing_class=tokenizer,
        callbacks=[EvaluateAt()],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    curve = [(log["step"] * args.tokens_a_step, log["eval_loss"]) for log in logs]
    if not np.isfinite(curve[-1][1]):
        raise InputError(f"width {width}, {num_tokens} tokens: the loss is {curve[-1][1]}; lower learning_rate")
    record = {
        "hidden_size": width,
        "num_tokens": num_tokens,
        **sizes_of(args, width, folder),
        "learning_rate": peak,
        "loss": curve[-1][1],
        "curve": curve,
        "seconds": seconds,
    }
    shutil.rmtree(scratch, ignore_errors=True)  # the trainer's folder; a run leaves its record alone
    write_json(run_file(folder, run), record)
    return record
