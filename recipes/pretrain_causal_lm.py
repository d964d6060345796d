"""Pretrain a causal language model on packed text, from scratch or from a model that exists.

    accelerate launch recipes/pretrain_causal_lm.py --config recipes/configs/pretrain_causal_lm/llama1m_world.yaml
    python recipes/pretrain_causal_lm.py --tokenizer_name_or_path my_tokenizer --dataset_name books.txt \\
        --hidden_size 256 --num_hidden_layers 6 --block_size 256 --max_steps 2000 --output_dir my_model
    python recipes/pretrain_causal_lm.py --model_name_or_path my_model --dataset_name more.txt --output_dir my_next

Documents are joined by EOS and cut into blocks of --block_size tokens. Without --model_name_or_path a new Llama is
made, of the shape that the flags give. It is trained to predict each token from those before it.

--dataset_streaming true reads, shuffles (--buffer_size) and tokenises on the fly what is longer than memory or disk,
`zcat *.gz | python recipes/pretrain_causal_lm.py --dataset_name - …` included; else it is tokenised once, and cached.

What to watch: `eval_loss` (nats a token), its exponential, `eval_perplexity`, and `eval_bits_per_byte`, which compares
tokenizers too, on text that it has not seen.
"""

from dataclasses import dataclass, field

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import (
    ScriptArguments,
    load_causal_lm,
    load_splits,
    load_tokenizer,
    parse,
    recipe,
    train_and_save,
)
from hfcourse.pipeline.load_model import WordVectorArguments, set_word_vectors


@dataclass
class ShapeArguments:
    _argument_group_name = "shape of a new model (read only without --model_name_or_path)"

    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder. Unset: that of --model_name_or_path."}
    )
    hidden_size: int = field(default=256, metadata={"help": "Width."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the MLPs. Unset: 4 × the width."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "Heads; their number must divide the width."})
    num_key_value_heads: int | None = field(default=None, metadata={"help": "Fewer share keys and values (GQA)."})
    max_position_embeddings: int | None = field(default=None, metadata={"help": "Context. Unset: --block_size."})
    tie_word_embeddings: bool = field(default=True, metadata={"help": "One matrix reads and writes tokens."})

    def config(self, tokenizer, block_size: int):
        from transformers import LlamaConfig

        if self.hidden_size % self.num_attention_heads:
            raise InputError(f"num_attention_heads={self.num_attention_heads}: must divide hidden_size")
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size or 4 * self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=self.max_position_embeddings or block_size,
            tie_word_embeddings=self.tie_word_embeddings,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


def main():
    from transformers import set_seed
    from trl import ModelConfig, get_peft_config

    from hfcourse import CausalLMConfig, CausalLMTrainer

    script_args, training_args, model_args, shape, vectors = parse(
        ScriptArguments, CausalLMConfig, ModelConfig, ShapeArguments, WordVectorArguments, description=__doc__
    )
    if script_args.template is not None:
        raise InputError("template: pretraining reads one column of texts, without a template")
    tokenizer = load_tokenizer(shape.tokenizer_name_or_path or model_args.model_name_or_path)
    train, evaluation = load_splits(script_args, training_args, required_columns=(training_args.text_column,))
    set_seed(training_args.seed)  # a new model's weights are drawn here
    model = load_causal_lm(model_args, shape.config(tokenizer, training_args.block_size))
    trainer = CausalLMTrainer(
        set_word_vectors(model, tokenizer, vectors),
        training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
