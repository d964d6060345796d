"""Reward models from comparisons: Bradley-Terry on pairs (course notes, 2.4)."""

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
import trl
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging

from hfcourse.errors import InputError
from hfcourse.losses import bradley_terry_loss
from hfcourse.models.adapters import save_reward_mean
from hfcourse.models.reward_model import add_reward_reader, load_reward_model, spare_pad_token
from hfcourse.models.shared_prefix import can_share_prefix, share_pairs
from hfcourse.models.token_stats import causal_lm_of
from hfcourse.trainers.checks import check_row_lengths
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.mixin import TrainerMixin
from hfcourse.trainers.preference_checks import check_preferences

logger = logging.get_logger(__name__)


def bootstrap_weights(input_ids: torch.Tensor, attention_mask: torch.Tensor, num_heads: int) -> torch.Tensor:
    """How often each head's sample holds each pair of a batch (2B, T): (B, heads) draws of Poisson(1).

    Seeded by the tokens of the pair, so that a head's sample is the same in every epoch and on every process.
    """
    tokens = [
        row[real].numpy().tobytes() for row, real in zip(input_ids.cpu(), attention_mask.bool().cpu(), strict=True)
    ]
    half = len(tokens) // 2
    seeds = [zlib.crc32(a + b"|" + b) for a, b in zip(tokens[:half], tokens[half:], strict=True)]
    return torch.tensor(np.array([np.random.default_rng(seed).poisson(1.0, num_heads) for seed in seeds]))


@dataclass
class RewardConfig(HardwareDefaults, trl.RewardConfig):
    """`trl.RewardConfig` whose precision comes from the hardware and whose `max_length` drops nothing by default."""

    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Pairs with an answer longer than this (prompt included) are left out, never cut: the end of an "
            "answer decides its reward. Unset: all are kept."
        },
    )
    num_heads: int = field(
        default=1,
        metadata={
            "help": "Heads of an ensemble on one trunk, each of which sees its own sample of the pairs. Where they "
            "disagree, the reward is not to be trusted."
        },
    )
    num_centering_samples: int = field(
        default=256,
        metadata={
            "help": "Training pairs over whose answers the reward is measured after training; its mean is saved with "
            "the model and subtracted by the course's `score`. 0: none."
        },
    )
    shared_prefix: bool | None = field(
        default=None,
        metadata={
            "help": "Compute what chosen and rejected begin with, the prompt above all, once instead of twice. Unset: "
            "where the model's attention can; True warns where it cannot. The rewards are the same to rounding."
        },
    )


class RewardTrainer(TrainerMixin, trl.RewardTrainer):
    """`trl.RewardTrainer` with [`hfcourse.losses.bradley_terry_loss`] as its loss; a drop-in.

        L = -log σ( RM(x, y_w) - RM(x, y_l) - margin ) + c (RM(x, y_w) + RM(x, y_l))²

    Beside the loss it changes this in its parent:
    1. Reads the reward at the last token that the attention mask counts, and never pads with EOS, because
       transformers, which scores with the model later, takes the last token that is not the pad token.
    2. Says how many pairs `max_length` leaves out, and stops if it leaves out all of them.
    3. Identical answers and missing columns are errors, found before the first step.
    4. The prompt is computed once for both answers (`shared_prefix`, [`hfcourse.models.shared_prefix`]): rewards equal
       the plain batch's to rounding.
    5. A model with several labels is an ensemble of heads; each head's loss weighs every pair by a Poisson(1) draw of
       its own (a bootstrap for streams, Oza and Russell 2001), the same in every epoch.
    6. After training the mean reward of the training pairs' answers, which are samples of the reference policy, is
       noted in the config as `reward_mean` (beside an adapter, in reward_mean.json), so that
       [`hfcourse.models.reward_model.score`] has mean 0 on them.

    Only differences are learnt: a constant added to every reward of a prompt changes nothing, so RM(y_w) > 0 > RM(y_l)
    need not hold. `center_rewards_coefficient` pins the mean near 0.
    """

    _paper = {"title": "Training language models to follow instructions with human feedback", "id": "2203.02155"}

    def __init__(self, model, args=None, *, train_dataset=None, processing_class=None, **kwargs):
        args = args or RewardConfig("Reward")
        check_preferences(train_dataset, "train_dataset")
        if kwargs.get("eval_dataset") is not None:
            check_preferences(kwargs["eval_dataset"], "eval_dataset")
        if isinstance(model, str) and args.num_heads > 1:
            model = load_reward_model(model, **(args.model_init_kwargs or {}), num_heads=args.num_heads)
        if processing_class is not None and args.pad_token is None:
            args.pad_token = spare_pad_token(processing_class)
        config = getattr(model, "config", None)
        num_heads = getattr(config, "num_labels", 1)
        if num_heads > 1:  # the parent takes one label alone
            config.num_labels = 1
        super().__init__(model, args, train_dataset=train_dataset, processing_class=processing_class, **kwargs)
        self.model.config.num_labels = num_heads
        check_row_lengths(
            self.model.config, args.max_length, train_dataset=self.train_dataset, eval_dataset=self.eval_dataset
        )
        if self.processing_class.pad_token == self.processing_class.eos_token:
            raise InputError(
                f"pad_token: must differ from EOS; set pad_token={spare_pad_token(self.processing_class)}"
            )
        self._reads_one_place = add_reward_reader(self.model)
        can = self._reads_one_place and not is_deepspeed_zero3_enabled() and can_share_prefix(causal_lm_of(self.model))
        self._shares_prefix = self.args.shared_prefix is not False and can
        if self.args.shared_prefix and not can:
            logger.warning(
                "shared_prefix=True: the model's attention takes no mask of its own; the prompt is computed twice"
            )

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        if hasattr(dataset, "__len__") and len(prepared) < len(dataset):
            left_out = len(dataset) - len(prepared)
            if len(prepared) == 0:
                raise InputError(f"max_length={args.max_length}: every pair of the {dataset_name} set is longer")
            logger.warning(f"{left_out} of {len(dataset)} {dataset_name} pairs exceed max_length={args.max_length}")
        return prepared

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = self._score(model, inputs["input_ids"], inputs["attention_mask"])
        chosen_rewards, rejected_rewards = outputs.logits.chunk(2)  # (B, heads) each
        margin = inputs["margin"].unsqueeze(1) if "margin" in inputs else None
        losses = bradley_terry_loss(chosen_rewards, rejected_rewards, margin, self.args.center_rewards_coefficient)
        if self.model.training and losses.shape[1] > 1:
            weights = bootstrap_weights(inputs["input_ids"], inputs["attention_mask"], losses.shape[1])
            losses = losses * weights.to(losses)
        self._log_rewards(chosen_rewards.detach(), rejected_rewards.detach(), inputs["attention_mask"].sum())
        loss = losses.mean()
        return (loss, outputs) if return_outputs else loss

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        if self.args.num_centering_samples:
            self.center(self.args.num_centering_samples)
        return output

    @torch.no_grad()
    def center(self, num_pairs: int) -> None:
        """Measure the mean reward of the answers of the first training pairs, and note it as `config.reward_mean`."""
        pairs = self.train_dataset.take(num_pairs)
        rewards, was_training = [], self.model.training
        self.model.eval()
        for inputs in self.get_eval_dataloader(pairs):
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                logits = self._score(self.model, inputs["input_ids"], inputs["attention_mask"]).logits
            rewards.append(self.accelerator.gather_for_metrics(torch.stack(logits.float().mean(1).chunk(2), 1)))
        self.model.train(was_training)
        self.model.config.reward_mean = torch.cat(rewards).mean().item()

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        save_reward_mean(self.accelerator.unwrap_model(self.model), output_dir or self.args.output_dir)

    def _score(self, model, input_ids: torch.Tensor, attention_mask: torch.Tensor):
        """logits (2B, 1), chosen first, each read at the last token of its row; an encoder's, as it reads texts."""
        if not self._reads_one_place:
            return model(input_ids=input_ids, attention_mask=attention_mask)
        ends = (attention_mask * torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)).argmax(1)
        shared = share_pairs(input_ids, attention_mask) if self._shares_prefix else None
        if shared is None:
            starts = torch.arange(len(input_ids), device=input_ids.device) * input_ids.shape[1]
            return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, read_at=starts + ends)
        read_at = shared.place.gather(1, ends[:, None]).squeeze(1)
        return model(**shared.inputs_for(causal_lm_of(self.model)), use_cache=False, read_at=read_at)

    def _log_rewards(self, chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor, num_tokens: torch.Tensor):
        metrics = self._metrics["train" if self.model.training else "eval"]
        if self.model.training:
            self._total_train_tokens += self.accelerator.gather(num_tokens).sum().item()
        metrics["num_tokens"] = [self._total_train_tokens]
        if chosen_rewards.shape[1] > 1:
            deviation = (chosen_rewards - rejected_rewards).float().std(1)
            metrics["margin_std"].append(self.accelerator.gather_for_metrics(deviation).mean().item())
        one_each = chosen_rewards.mean(1), rejected_rewards.mean(1)
        chosen, rejected = self.accelerator.gather_for_metrics(one_each)
        rewards = torch.cat([chosen, rejected])
        metrics["min_reward"].append(rewards.min().item())
        metrics["mean_reward"].append(rewards.mean().item())
        metrics["max_reward"].append(rewards.max().item())
        # A number a pair: a mean of batch means, the parent's, counts the pairs of a small last batch more than once.
        metrics["accuracy"] += (chosen > rejected).float().tolist()
        metrics["margin"] += (chosen - rejected).float().tolist()
