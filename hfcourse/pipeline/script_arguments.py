"""The flags that all recipes share: what is read, and how it is launched."""

from dataclasses import dataclass, field


@dataclass
class ScriptArguments:
    """What a recipe reads and how it is launched; the trainer's config holds the rest."""

    _argument_group_name = "data and launch"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, local folder (of shards), json/jsonl/csv/parquet/txt file, - for standard input (with "
            "--dataset_streaming), or world/<name> for the embedded world (world/corpus, world/instructions, …)."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration (subset) of a Hub dataset that has several."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split to evaluate on. Read only if --eval_strategy is not 'no'."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Read rows when they are needed. Needs --max_steps: a stream has no length."}
    )
    buffer_size: int = field(
        default=1000,
        metadata={"help": "Rows of the buffer that a training stream is shuffled in; 0 reads it in its order."},
    )
    num_train_examples: int | None = field(
        default=None, metadata={"help": "Train on the first so many rows. Required for world/ unless it is streamed."}
    )
    num_eval_examples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows."})
    template: str | None = field(
        default=None,
        metadata={
            "help": "Turns instruction, context, question and output columns into prompt and completion: "
            "four_part_en, four_part_zh, alpaca, plain, or a .jinja file. hh_rlhf makes chat messages of HH-RLHF's "
            "pairs. Unset: the dataset has its final columns."
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "Licence of the trained model, for its card: an id such as apache-2.0. Unset: its base's."},
    )
    expected_processes: int | None = field(
        default=None,
        metadata={
            "help": "Refuse to start unless this many processes train together. `accelerate launch` can start fewer "
            "than it was asked for without a word."
        },
    )
