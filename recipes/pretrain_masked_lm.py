"""Pretrain an encoder by hiding tokens of packed text: BERT, RoBERTa, ModernBERT, SpanBERT.

    accelerate launch recipes/pretrain_masked_lm.py --config recipes/configs/pretrain_masked_lm/modernbert1m_world.yaml
    python recipes/pretrain_masked_lm.py --tokenizer_name_or_path my_wordpiece --dataset_name books.txt \\
        --architecture modernbert --masking whole_word --mlm_probability 0.3 --max_steps 2000 --output_dir my_encoder

    BERT      --exact_count true --dupe_factor 10         static masks, so many a row exactly
    RoBERTa   --architecture roberta                      other masks in each epoch
    SpanBERT  --masking span --span_boundary true         spans, told from the tokens at their edges too

Without --model_name_or_path a new model is made, of the shape that the flags give. A tokenizer without a mask token
(a byte-level BPE, say) gets one, and its BOS and EOS serve as CLS and SEP.

--word_vectors my_vectors puts word vectors (of pretrain_embeddings, word2vec, GloVe) into the embedding table.

What to watch: `eval_loss` (nats a hidden token) and its exponential, `eval_perplexity`, on text it has not seen.
"""

from dataclasses import dataclass, field
from typing import Literal

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, load_splits, load_tokenizer, parse, recipe, train_and_save
from hfcourse.pipeline.load_model import WordVectorArguments, load_or_make, set_word_vectors


@dataclass
class ShapeArguments:
    _argument_group_name = "shape of a new model (read only without --model_name_or_path)"

    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder. Unset: that of --model_name_or_path."}
    )
    architecture: Literal["bert", "roberta", "modernbert"] = field(default="bert", metadata={"help": "Its family."})
    hidden_size: int = field(default=256, metadata={"help": "Width."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the MLPs. Unset: 4 × the width."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "Heads; their number must divide the width."})
    dropout: float = field(default=0.0, metadata={"help": "Of hidden states and attention; BERT's is 0.1."})

    def config(self, tokenizer, block_size: int):
        from transformers import AutoConfig

        if self.hidden_size % self.num_attention_heads:
            raise InputError(f"num_attention_heads={self.num_attention_heads}: must divide hidden_size")
        names = ("pad", "bos", "eos", "cls", "sep")
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
        dropout = {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}
        if self.architecture == "modernbert":
            dropout = {"embedding_dropout": self.dropout, "mlp_dropout": self.dropout}
        first_position = tokenizer.pad_token_id + 1 if self.architecture == "roberta" else 0
        return AutoConfig.for_model(
            self.architecture,
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size or 4 * self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=block_size + first_position,
            **dropout,
            **ids,
        )


def main():
    from transformers import AutoModelForMaskedLM, set_seed
    from trl import ModelConfig, get_peft_config

    from hfcourse import MaskedLMConfig, MaskedLMTrainer

    script_args, training_args, model_args, shape, vectors = parse(
        ScriptArguments, MaskedLMConfig, ModelConfig, ShapeArguments, WordVectorArguments, description=__doc__
    )
    if script_args.template is not None:
        raise InputError("template: pretraining reads one column of texts, without a template")
    tokenizer = load_tokenizer(shape.tokenizer_name_or_path or model_args.model_name_or_path)
    if tokenizer.mask_token is None:
        ends = {"cls_token": tokenizer.bos_token or "<cls>", "sep_token": tokenizer.eos_token or "<sep>"}
        tokenizer.add_special_tokens({"mask_token": "<mask>", **ends})
    columns = (training_args.text_column,)
    # Static masks are copies of a whole dataset: its stream must end.
    train, evaluation = load_splits(script_args, training_args, columns, endless=not training_args.dupe_factor)
    set_seed(training_args.seed)  # a new model's weights are drawn here
    model = load_or_make(AutoModelForMaskedLM, model_args, shape.config(tokenizer, training_args.block_size))
    trainer = MaskedLMTrainer(
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
