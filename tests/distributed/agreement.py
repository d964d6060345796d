"""What one rank of two finds out about our trainers and TRL's: the cells of the agreement, and faults of TRL.

Lines of JSON. As a script: `agreement.py output_dir`, once a rank.
"""

import gc
import json
import sys
from pathlib import Path

import torch
import trl

import hfcourse
from hfcourse.tokenization import train_tokenizer
from tests.distributed.preferences import model, pairs, settings
from tests.trainers.trl_agreement import CELLS, compare


def reference_of_rows_in_memory(folder: Path) -> str:
    """How TRL fares with precomputed reference log-probs of rows that are in no file."""
    args = trl.DPOConfig(**settings(str(folder), 4), bf16=False, precompute_ref_log_probs=True)
    try:
        trl.DPOTrainer(model(), args=args, train_dataset=pairs(), processing_class=train_tokenizer(["a b"], 260))
    except FileNotFoundError as e:
        return type(e).__name__
    return "fine"


def learnt_after_an_evaluation(library, folder: Path) -> list[float]:
    """Of every parameter the sum, after `evaluate()` and a step: the same on both ranks if they learn together."""
    rows = pairs().rename_column("chosen", "completion").remove_columns("rejected")
    args = library.SFTConfig(**settings(str(folder), 4), bf16=False)
    options = dict(train_dataset=rows, eval_dataset=rows, processing_class=train_tokenizer(["a b"], 260))
    trainer = library.SFTTrainer(model(), args, **options)
    trainer.evaluate()
    trainer.train()
    return [p.double().sum().item() for p in trainer.model.parameters()]


if __name__ == "__main__":
    gc.freeze()  # every `train()` collects garbage, and walks all that was imported
    place = Path(sys.argv[1])
    for cell in CELLS:
        print(json.dumps(compare(cell, place)))
    print(json.dumps({"reference_of_rows_in_memory": reference_of_rows_in_memory(place)}))
    sums = {library.__name__: learnt_after_an_evaluation(library, place) for library in (hfcourse, trl)}
    print(json.dumps({"learnt_after_an_evaluation": sums}))
    torch.distributed.destroy_process_group()
