"""Pretrain an encoder-decoder on corrupted spans of packed text, with tasks in the same stream: T5, UL2.

    accelerate launch recipes/pretrain_span_corruption.py \\
        --config recipes/configs/pretrain_span_corruption/t5-3m_world.yaml
    python recipes/pretrain_span_corruption.py --tokenizer_name_or_path my_tokenizer --dataset_name books.txt \\
        --input_length 256 --rms_scaled true --learning_rate 2e-2 --max_steps 2000 --output_dir my_t5

The tokenizer needs sentinels: `recipes/train_tokenizer.py --sentinels 100`. Without --model_name_or_path a new T5 is
made, of the shape that the flags give. --tasks_name brings rows of `input` and `target` texts (T5's multi-task
mixture), --task_rate of all rows. --objective ul2 takes a tokenizer with the mode tokens [R], [X] and [S].

--word_vectors my_vectors puts word vectors (of pretrain_embeddings, word2vec, GloVe) into the embedding table.

Optimizer: --rms_scaled true is AdamW with steps relative to the weights; with --optim adafactor too it is T5's own.
Plain AdamW is unstable for T5, whose weights are of very different sizes.

What to watch: `eval_loss` (nats a token of the hidden spans and their sentinels) on text that it has not seen.
"""

from dataclasses import dataclass, field

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, load_splits, load_tokenizer, parse, recipe, train_and_save
from hfcourse.pipeline.load_model import WordVectorArguments, load_or_make, set_word_vectors


@dataclass
class ShapeArguments:
    _argument_group_name = "shape of a new model (read only without --model_name_or_path), and tasks"

    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder. Unset: that of --model_name_or_path."}
    )
    hidden_size: int = field(default=256, metadata={"help": "Width."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the MLPs. Unset: 4 × the width."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of the encoder, and as many of the decoder."})
    num_attention_heads: int = field(default=4, metadata={"help": "Heads; their number must divide the width."})
    dropout: float = field(default=0.0, metadata={"help": "T5 was pretrained without."})
    tasks_name: str | None = field(
        default=None, metadata={"help": "Dataset of `input` and `target` texts, found as --dataset_name is."}
    )
    num_tasks: int | None = field(default=None, metadata={"help": "The first so many rows of it."})

    def config(self, tokenizer):
        from transformers import T5Config

        if self.hidden_size % self.num_attention_heads:
            raise InputError(f"num_attention_heads={self.num_attention_heads}: must divide hidden_size")
        return T5Config(
            vocab_size=len(tokenizer),
            d_model=self.hidden_size,
            d_kv=self.hidden_size // self.num_attention_heads,
            d_ff=self.intermediate_size or 4 * self.hidden_size,
            num_layers=self.num_hidden_layers,
            num_heads=self.num_attention_heads,
            dropout_rate=self.dropout,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )


def main():
    from transformers import AutoModelForSeq2SeqLM, set_seed
    from trl import ModelConfig, get_peft_config

    from hfcourse import SpanCorruptionConfig, SpanCorruptionTrainer
    from hfcourse.data import load_dataset

    script_args, training_args, model_args, shape, vectors = parse(
        ScriptArguments, SpanCorruptionConfig, ModelConfig, ShapeArguments, WordVectorArguments, description=__doc__
    )
    if script_args.template is not None:
        raise InputError("template: pretraining reads one column of texts, without a template")
    tokenizer = load_tokenizer(shape.tokenizer_name_or_path or model_args.model_name_or_path)
    train, evaluation = load_splits(script_args, training_args, required_columns=(training_args.text_column,))
    streams = {"streaming": script_args.dataset_streaming, "num_examples": shape.num_tasks}
    tasks = None if shape.tasks_name is None else load_dataset(shape.tasks_name, **streams)
    set_seed(training_args.seed)  # a new model's weights are drawn here
    model = load_or_make(AutoModelForSeq2SeqLM, model_args, shape.config(tokenizer))
    trainer = SpanCorruptionTrainer(
        set_word_vectors(model, tokenizer, vectors),
        training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        tasks=tasks,
        peft_config=get_peft_config(model_args),
    )
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
