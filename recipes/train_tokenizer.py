"""Train a tokenizer: the first thing that a language model needs.

    python recipes/train_tokenizer.py --config recipes/configs/train_tokenizer/world.yaml
    python recipes/train_tokenizer.py --dataset_name books.txt --vocab_size 8000 --output_dir my_tokenizer
    python recipes/train_tokenizer.py --dataset_name books.txt --algorithm wordpiece --output_dir for_bert

--algorithm is one of
    bpe                   byte-level byte-pair encoding, as GPT-2's: nothing is unknown, decoding is exact
    bpe_characters        on characters, words ending in </w>
    wordpiece             BERT's; its tokens chosen by how often they occur
    wordpiece_likelihood  chosen by n(ab)/(n(a)·n(b)); give --min_frequency 20 or so
The result is an ordinary tokenizer folder (AutoTokenizer reads it), and the same texts give the same tokenizer.

What to watch: `bytes_per_token`, how much text a token stands for. A larger vocabulary raises it, and the cost of the
embeddings with it; the table shows how much, from characters to words. It is measured on the first --num_eval_examples
of --dataset_test_split, or without that on the first 1000 training texts, of which nothing is unknown.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, one_process_only, parse, recipe

ROWS_MEASURED = 1000


@dataclass
class TokenizerArguments:
    _argument_group_name = "tokenizer"

    output_dir: str = field(default="tokenizer", metadata={"help": "Folder that the tokenizer is saved in."})
    algorithm: Literal["bpe", "bpe_characters", "wordpiece", "wordpiece_likelihood"] = field(
        default="bpe", metadata={"help": "See above."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Tokens, with the alphabet and the special ones."})
    min_frequency: int = field(default=2, metadata={"help": "Pairs seen more seldom are not merged."})
    special_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Never split, beside the algorithm's own; e.g. <|im_start|> <|im_end|> for chat."},
    )
    sentinels: int = field(default=0, metadata={"help": "T5's <extra_id_0> …, on top of the vocabulary; T5 has 100."})
    lowercase: bool = field(default=False, metadata={"help": "WordPiece without capitals and accents."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the texts."})
    model_max_length: int | None = field(default=None, metadata={"help": "Context of the model that will use it."})
    chat_template_path: str | None = field(default=None, metadata={"help": "Jinja file that renders messages."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the tokenizer when it is trained."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to upload to, with --push_to_hub."})


def main():
    one_process_only()
    script_args, args = parse(ScriptArguments, TokenizerArguments, description=__doc__)
    if script_args.template is not None:
        raise InputError("template: a tokenizer is trained on one column of texts, without a template")
    if script_args.dataset_streaming and script_args.num_train_examples is None:
        raise InputError("num_train_examples: is required with dataset_streaming, or the training may never end")
    if args.push_to_hub and args.hub_model_id is None:
        raise InputError("hub_model_id: is required with push_to_hub")
    if args.chat_template_path is not None and not Path(args.chat_template_path).is_file():
        raise InputError(f"chat_template_path: there is no file '{args.chat_template_path}'")

    from hfcourse.data import load_dataset
    from hfcourse.tokenization.measures import TrainingUnits, as_table
    from hfcourse.tokenization.training import train_by_algorithm

    def load(split, num_examples):
        where = (script_args.dataset_name, split, script_args.dataset_config, script_args.dataset_streaming)
        dataset = load_dataset(*where, num_examples, required_columns=(args.text_column,))
        return (row[args.text_column] for row in dataset)

    units = TrainingUnits()
    tokenizer = train_by_algorithm(
        args.algorithm,
        units.watch(load(script_args.dataset_train_split, script_args.num_train_examples)),
        args.vocab_size,
        tuple(args.special_tokens),
        args.min_frequency,
        args.model_max_length,
        Path(args.chat_template_path).read_text(encoding="utf-8") if args.chat_template_path else None,
        args.sentinels,
        args.lowercase,
    )
    tokenizer.save_pretrained(args.output_dir)
    split = script_args.dataset_test_split if script_args.num_eval_examples else script_args.dataset_train_split
    rows = units.compare(tokenizer, list(load(split, script_args.num_eval_examples or ROWS_MEASURED)))
    print(as_table(rows))
    results = {**asdict(rows[-2]), "vocab_size": len(tokenizer), "table": [asdict(row) for row in rows]}
    (Path(args.output_dir) / "all_results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{args.output_dir}: {len(tokenizer)} tokens, {rows[-2].bytes_per_token:.3f} bytes a token")
    if args.push_to_hub:
        tokenizer.push_to_hub(args.hub_model_id)


if __name__ == "__main__":
    recipe(main)
