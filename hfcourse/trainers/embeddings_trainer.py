"""Word embeddings alone: skip-gram with negative sampling, the windows and the noise drawn on the device."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import TrainingArguments, set_seed

from hfcourse.data.word_pairs import (
    count_words,
    draw_negatives,
    draw_pairs,
    keep_probabilities,
    noise_distribution,
    split_words,
    word_blocks,
)
from hfcourse.errors import InputError
from hfcourse.hub.model_card import describe_dataset
from hfcourse.models.skip_gram import SkipGram, SkipGramConfig
from hfcourse.models.word_vectors import SAFETENSORS_FILE, TEXT_FILE
from hfcourse.trainers.checks import check_columns
from hfcourse.trainers.hardware import HardwareDefaults


@dataclass
class EmbeddingsConfig(HardwareDefaults, TrainingArguments):
    """`transformers.TrainingArguments`, and what word2vec's flags set."""

    hidden_size: int = field(
        default=100, metadata={"help": "Length of a vector; a model's width, to be loaded there."}
    )
    window: int = field(default=5, metadata={"help": "Largest reach of a window; each word draws its own up to that."})
    num_negatives: int = field(default=5, metadata={"help": "Noise words a pair."})
    subsample: float = field(
        default=1e-3, metadata={"help": "Words that are a larger share of the text are thinned out; 0 keeps all."}
    )
    noise_power: float = field(default=0.75, metadata={"help": "Noise words are drawn by their count to this power."})
    min_count: int = field(default=5, metadata={"help": "Words that occur less often are left out."})
    max_words: int | None = field(default=None, metadata={"help": "The most frequent so many words only."})
    lowercase: bool = field(default=False, metadata={"help": "Lowercase the texts first (words, not a tokenizer's)."})
    block_size: int = field(default=256, metadata={"help": "Words a row of the batch."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the texts."})
    learning_rate: float = field(default=3e-2, metadata={"help": "Of AdamW at its start."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps; below 1, a share of all."})


class EmbeddingsTrainer(transformers.Trainer):
    """Skip-gram with negative sampling, https://huggingface.co/papers/1310.4546.

        L = (1/n) Σ_(c, o) [-log σ(c · o) - Σ_k log σ(-c · n_k)]     n: pairs of the optimizer step, over all processes

    What it changes in its parent:
    1. It counts the words of `train_dataset`, makes the [`SkipGram`] for them, and blocks of their ids.
    2. Pairs and noise are drawn when the batches of a step are fetched, for then n is known: by chance that follows
       from seed, step and rank, so that every epoch has others, and a resumed run the same.
    3. The loss is [`hfcourse.losses.skip_gram_negative_sampling_loss`], summed and divided by n.
    4. `save_model` writes the vectors in word2vec's text and as safetensors beside the model.
    Deviations from word2vec.c: (1) many pairs a step and AdamW, not one and SGD; (2) a noise word may be the true one;
    (3) windows do not reach over the end of a block.

    Args:
        train_dataset, eval_dataset: with a column of texts. `eval_loss` draws the same pairs every time.
        processing_class: a tokenizer whose tokens are the words. Unset: runs of letters and digits.
    """

    loss_is_scaled_for_ga = True
    card_dataset: str | None = None
    card_license: str | None = None

    def __init__(self, args=None, *, train_dataset=None, eval_dataset=None, processing_class=None, **kwargs):
        args = args or EmbeddingsConfig("embeddings")
        check_columns(train_dataset, "train_dataset", args.text_column)
        if min(args.window, args.num_negatives, args.min_count) < 1 or args.block_size < 2:
            raise InputError("window, num_negatives and min_count must be at least 1, block_size at least 2")

        def split(text: str) -> list[str]:
            return split_words(text, args.lowercase) if processing_class is None else processing_class.tokenize(text)

        def blocks(dataset) -> TensorDataset | None:
            if dataset is None:
                return None
            texts = (row[args.text_column] for row in dataset)
            return TensorDataset(torch.from_numpy(word_blocks(texts, split, counts, args.block_size)))

        counts = count_words((r[args.text_column] for r in train_dataset), split, args.min_count, args.max_words)
        set_seed(args.seed)
        super().__init__(
            SkipGram(SkipGramConfig(list(counts), args.hidden_size)),
            args,
            data_collator=lambda rows: {"input_ids": torch.stack([ids for (ids,) in rows])},
            train_dataset=blocks(train_dataset),
            eval_dataset=blocks(eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        if args.n_gpu > 1:
            raise InputError("several GPUs need several processes: start with `accelerate launch` or `torchrun`")
        self.model_accepts_loss_kwargs = True  # the loss is divided by n here, not by the parent
        occurrences = torch.tensor(list(counts.values()), device=args.device)
        self._keep = keep_probabilities(occurrences, args.subsample)
        self._noise = noise_distribution(occurrences, args.noise_power)
        self._eval_generator: torch.Generator | None = None

    def draw(self, blocks: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """center (n,), context (n,) and negatives (n, K): what the model is called with. blocks: (B, L)."""
        blocks = blocks.to(self._keep.device)
        center, context = draw_pairs(blocks, self._keep, self.args.window, generator)
        negatives = draw_negatives(self._noise, len(center), self.args.num_negatives, generator)
        return {"center": center, "context": context, "negatives": negatives}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # Not the global generator: the parent restores it, when it resumes, only after the first batches are fetched.
        step = self.state.global_step * self.args.world_size + self.args.process_index
        generator = torch.Generator(self._keep.device).manual_seed(self.args.seed * 1_000_003 + step)
        batches = [self.draw(batch["input_ids"], generator) for batch in batches]
        num_pairs = torch.tensor(sum(len(batch["center"]) for batch in batches), device=device)
        if self.args.average_tokens_across_devices:
            num_pairs = self.accelerator.gather(num_pairs).sum()
        return batches, num_pairs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses = model(**inputs)
        num_pairs = torch.tensor(len(losses)) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / num_pairs.clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # n counts every process, and DDP averages over them
        return (loss, losses) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self.draw(inputs["input_ids"], self._eval_generator)), None, None

    def evaluation_loop(self, *args, **kwargs):
        self._eval_generator = torch.Generator(self._keep.device).manual_seed(self.args.seed)
        return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and not _internal_call:  # a checkpoint needs the model alone
            folder, vectors = Path(output_dir or self.args.output_dir), self._model().word_vectors()
            vectors.save_safetensors(folder / SAFETENSORS_FILE)
            vectors.save_word2vec(folder / TEXT_FILE)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write README.md into `output_dir`: what the vectors are of, and how to read them."""
        if not self.is_world_process_zero():
            return
        config, (dataset, dataset_id) = self._model().config, describe_dataset(self.card_dataset)
        losses = [log["loss"] for log in self.state.log_history if "loss" in log]
        data = ModelCardData(
            library_name="hfcourse", license=self.card_license or "unknown", datasets=dataset_id, tags=["word2vec"]
        )
        text = (
            f"---\n{data.to_yaml()}\n---\n\n# Word vectors\n\n"
            f"{config.vocab_size:,} words, {config.hidden_size} dimensions, by skip-gram with negative sampling "
            f"([word2vec](https://huggingface.co/papers/1310.4546)) from {dataset or 'data that was not recorded'}: "
            f"{self.state.global_step} steps{f', last loss {losses[-1]:.4g}' if losses else ''}.\n\n"
            f"`{TEXT_FILE}` has word2vec's text format; `{SAFETENSORS_FILE}` is read by\n\n```python\n"
            'from hfcourse.models.word_vectors import WordVectors\n\nvectors = WordVectors.load("this folder")\n```\n'
        )
        ModelCard(text).save(Path(self.args.output_dir) / "README.md")

    def _model(self) -> SkipGram:
        return self.accelerator.unwrap_model(self.model)
