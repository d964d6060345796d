"""Span corruption: pretraining encoder-decoders the ways of T5 and UL2, with tasks in the same stream."""

from dataclasses import dataclass, field

from torch import Tensor

from hfcourse.collators import (
    PREFIX_LM,
    UL2_DENOISERS,
    DataCollatorForMixtureOfDenoisers,
    DataCollatorForSpanCorruption,
    DataCollatorForTextToText,
)
from hfcourse.data.packing import Separators, pack_documents
from hfcourse.data.text_to_text import mix_tasks, tokenize_tasks
from hfcourse.errors import InputError
from hfcourse.models.decoder_inputs import decoder_inputs, require_start_token
from hfcourse.trainers.language_model_trainer import LanguageModelConfig, LanguageModelTrainer, prepared

OBJECTIVES = ("span_corruption", "prefix_lm", "ul2")


@dataclass
class SpanCorruptionConfig(LanguageModelConfig):
    """[`LanguageModelConfig`] and the noise: see [`hfcourse.collators.DataCollatorForSpanCorruption`]."""

    objective: str = field(default="span_corruption", metadata={"help": "span_corruption (T5), prefix_lm, or ul2."})
    input_length: int = field(default=512, metadata={"help": "Tokens of an input. Row and target lengths follow."})
    noise_density: float = field(default=0.15, metadata={"help": "Share of the tokens that are hidden."})
    mean_noise_span_length: float = field(default=3.0, metadata={"help": "Tokens of a hidden span, on average."})
    noise: str = field(default="spans", metadata={"help": "spans (T5), iid (each token for itself), or regular."})
    free_ends: bool = field(
        default=False, metadata={"help": "Spans may begin and end anywhere. T5's never touch a row's first token."}
    )
    task_rate: float = field(default=0.5, metadata={"help": "With tasks: the share of rows that are tasks."})


class SpanCorruptionTrainer(LanguageModelTrainer):
    """[`LanguageModelTrainer`] for encoder-decoders.

        L = -(1/n) Σ_t log p(y_t | y_<t, x)     x: a text with sentinels for spans, y: the spans

    1. The decoder reads the labels one place later ([`hfcourse.models.decoder_inputs`]; the model's config needs
       `decoder_start_token_id`); labels are not shifted again. T5's own loss would be multiplied by the accumulation
       steps.
    2. Masks are functions of (seed, epoch, row): the same whatever the batch size, the processes and interruptions.
    3. With `tasks`, a share `task_rate` of the rows are inputs and targets of tasks (T5's multi-task mixture).
    Datasets of texts are packed into rows of the collator's `raw_length`, without a token between documents, as in T5;
    those with `input_ids` must have that length.

    Args:
        train_dataset, eval_dataset: with a column of texts, or `input_ids`. The evaluation has no tasks.
        processing_class: tokenizer, with EOS and sentinels `<extra_id_0>`, …
        tasks: dataset with the columns `input` and `target`.
        data_collator: in place of the one that the config describes.
    """

    _tag_names = ["span-corruption"]
    _name = "Span corruption"
    _paper = {"title": "Exploring the Limits of Transfer Learning with T5", "id": "1910.10683"}

    def __init__(
        self,
        model,
        args=None,
        *,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        tasks=None,
        data_collator=None,
        **kwargs,
    ):
        args = args or SpanCorruptionConfig("SpanCorruption")
        if processing_class is None:
            raise InputError("processing_class: a tokenizer is needed, for its sentinels")
        if train_dataset is None:
            raise InputError("train_dataset: is required")
        require_start_token(model)
        collator = data_collator or span_corruption_collator(processing_class, args)

        def pack(dataset):
            return pack_documents(
                dataset, processing_class, collator.raw_length, args.text_column, separators=Separators()
            )

        datasets = {
            "train_dataset": prepared(train_dataset, "train_dataset", pack),
            "eval_dataset": prepared(eval_dataset, "eval_dataset", pack),
        }
        if tasks is not None:
            tokens = tokenize_tasks(tasks, processing_class, collator.input_length, collator.target_length)
            datasets["train_dataset"] = mix_tasks(datasets["train_dataset"], tokens, args.task_rate, args.seed)
            collator = DataCollatorForTextToText(collator)
        super().__init__(model, args, data_collator=collator, processing_class=processing_class, **datasets, **kwargs)

    def logits_and_labels(self, model, inputs) -> tuple[object, Tensor, Tensor]:
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        read = decoder_inputs(self.accelerator.unwrap_model(model), labels)
        outputs = model(**inputs, decoder_input_ids=read, use_cache=False)
        return outputs, outputs.logits, labels


def span_corruption_collator(tokenizer, args: SpanCorruptionConfig):
    """The collator that a config describes. Raises InputError for an unknown objective."""
    if args.objective == "span_corruption":
        return DataCollatorForSpanCorruption(
            tokenizer,
            args.noise_density,
            args.mean_noise_span_length,
            args.input_length,
            args.noise,
            args.free_ends,
            seed=args.seed,
        )
    if args.objective not in OBJECTIVES:
        raise InputError(f"objective='{args.objective}': choose {', '.join(OBJECTIVES)}")
    denoisers = PREFIX_LM if args.objective == "prefix_lm" else UL2_DENOISERS
    return DataCollatorForMixtureOfDenoisers(tokenizer, denoisers, args.input_length, seed=args.seed)
