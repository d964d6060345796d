"""A mixture's batches, and a measurement during training, in however many processes this runs; a line of JSON each."""

import json
import sys

from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.callbacks import EvaluateCallback
from hfcourse.data.mixtures import mix, mix_streams
from hfcourse.tokenization import train_tokenizer
from tests.distributed.preferences import model

BATCH, STEPS = 8, 6


def batches(accelerator: Accelerator) -> dict[str, list[list[int]]]:
    """The first batches of all processes together: numbers below 100 are of one dataset, others of the other."""
    many, few = (Dataset.from_dict({"x": list(range(*bounds))}) for bounds in ((0, 60), (100, 107)))
    streams = [many.to_iterable_dataset(), few.to_iterable_dataset()]
    mixed = {"rows": mix([many, few], [0.7, 0.3], 60, seed=1)[0], "stream": mix_streams(streams, [0.7, 0.3], seed=1)}
    seen = {}
    for name, dataset in mixed.items():
        loader = DataLoader(dataset.with_format("torch"), batch_size=BATCH // accelerator.num_processes)
        gathered = (accelerator.gather(batch["x"]).tolist() for batch in accelerator.prepare(loader))
        seen[name] = [sorted(batch) for batch, _ in zip(gathered, range(STEPS), strict=False)]
    return seen


def measured(output_dir: str) -> list[float]:
    """What a measurement that depends on the process ends up as in this process's log."""
    rows = Dataset.from_list([{"prompt": "a", "completion": " b"}] * 4)
    quiet = dict(max_steps=1, per_device_train_batch_size=1, use_cpu=True, disable_tqdm=True, save_strategy="no")
    args = SFTConfig(output_dir, eval_strategy="steps", eval_steps=1, **quiet)
    options = dict(train_dataset=rows, eval_dataset=rows, processing_class=train_tokenizer(["a b"], 260))
    trainer = SFTTrainer(model(), args, **options)
    trainer.add_callback(EvaluateCallback(trainer, lambda m, tokenizer: {"rank": trainer.args.process_index + 7.0}))
    trainer.train()
    return [log["eval_rank"] for log in trainer.state.log_history if "eval_rank" in log]


if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    print(json.dumps({"batches": batches(accelerator), "measured": measured(sys.argv[1])}))
