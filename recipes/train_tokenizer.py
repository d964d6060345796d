"""Train a byte-level BPE tokenizer: the first thing that a language model needs.

    python recipes/train_tokenizer.py --config recipes/configs/train_tokenizer/world.yaml
    python recipes/train_tokenizer.py --dataset_name books.txt --vocab_size 8000 --output_dir my_tokenizer

The merges are learnt from one column of texts; the result is an ordinary tokenizer folder (AutoTokenizer reads it).
The same texts give the same tokenizer.

What to watch: `bytes_per_token`, how much text a token stands for. A larger vocabulary raises it, and the cost of the
embeddings with it.
"""

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, parse, recipe

ROWS_MEASURED = 1000


@dataclass
class TokenizerArguments:
    _argument_group_name = "tokenizer"

    output_dir: str = field(default="tokenizer", metadata={"help": "Folder that the tokenizer is saved in."})
    vocab_size: int = field(default=8192, metadata={"help": "Tokens, with the 256 bytes and the special ones."})
    min_frequency: int = field(default=2, metadata={"help": "Pairs seen more seldom are not merged."})
    special_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Never split, beside <|pad|> and <|endoftext|>; e.g. <|im_start|> <|im_end|> for chat."},
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the texts."})
    model_max_length: int | None = field(default=None, metadata={"help": "Context of the model that will use it."})
    chat_template_path: str | None = field(default=None, metadata={"help": "Jinja file that renders messages."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the tokenizer when it is trained."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to upload to, with --push_to_hub."})


def main():
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
    from hfcourse.tokenization import train_tokenizer

    dataset = load_dataset(
        script_args.dataset_name,
        script_args.dataset_train_split,
        script_args.dataset_config,
        script_args.dataset_streaming,
        script_args.num_train_examples,
        required_columns=(args.text_column,),
    )
    tokenizer = train_tokenizer(
        (row[args.text_column] for row in dataset),
        args.vocab_size,
        tuple(args.special_tokens),
        args.min_frequency,
        args.model_max_length,
        Path(args.chat_template_path).read_text(encoding="utf-8") if args.chat_template_path else None,
    )
    tokenizer.save_pretrained(args.output_dir)
    texts = [row[args.text_column] for row in islice(dataset, ROWS_MEASURED)]
    num_tokens = sum(len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"])
    num_bytes = sum(len(text.encode()) for text in texts)
    results = {"vocab_size": len(tokenizer), "bytes_per_token": round(num_bytes / num_tokens, 3)}
    (Path(args.output_dir) / "all_results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{args.output_dir}: {results['vocab_size']} tokens, {results['bytes_per_token']} bytes a token")
    if args.push_to_hub:
        tokenizer.push_to_hub(args.hub_model_id)


if __name__ == "__main__":
    recipe(main)
