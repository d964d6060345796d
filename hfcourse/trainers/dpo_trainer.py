"""Direct preference optimization: the policy is its own reward model (course notes, 2.5 and 2.6)."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import trl
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets, load_from_disk
from datasets.fingerprint import Hasher
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from hfcourse.errors import InputError
from hfcourse.losses import dpo_loss, hinge_preference_loss, ipo_mean_loss, robust_dpo_loss
from hfcourse.models.shared_prefix import can_share_prefix, share_pairs
from hfcourse.models.token_stats import add_token_stats_head, causal_lm_of
from hfcourse.trainers.checks import check_padding, check_row_lengths
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.mixin import TrainerMixin
from hfcourse.trainers.preference_checks import check_preferences
from hfcourse.trainers.reference_cache import ReferenceCache, model_key, pair_keys

logger = logging.get_logger(__name__)

OWN_LOSSES = ("sigmoid", "ipo", "hinge", "robust")


@dataclass
class DPOConfig(HardwareDefaults, trl.DPOConfig):
    """`trl.DPOConfig` whose precision comes from the hardware. `label_smoothing` counts for every loss of ours."""

    shared_prefix: bool | None = field(
        default=None,
        metadata={
            "help": "Compute what chosen and rejected begin with, the prompt above all, once instead of twice. Unset: "
            "where the model's attention can; True warns where it cannot. The log-probs are the same to rounding."
        },
    )


class DPOTrainer(TrainerMixin, trl.DPOTrainer):
    """`trl.DPOTrainer` with the losses of [`hfcourse.losses`]; a drop-in.

        L = -log σ( β [ (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x)) ] )

    Beside the loss it changes this in its parent:
    1. `label_smoothing` is honoured by `sigmoid` (conservative DPO), `hinge` and `ipo`, where TRL ignores it without
       a word.
    2. Only completion positions meet the LM head, and the prompt is computed once for both answers
       (`shared_prefix`, [`hfcourse.models.shared_prefix`]): 3 · 2N (P + C + R) operations a step instead of
       3 · 2N (2P + C + R). Log-probs equal the plain batch's to rounding: 1e-5 a token in float32, 0.01 in bf16.
    3. The reference may be a copy of a model built in memory; TRL loads it again by its name.
    4. `precompute_ref_log_probs` keeps each pair's log-probs by model and tokens ([`ReferenceCache`]): the next run, a
       sweep over β, more data or a run that was killed compute what is missing. It takes streams.
    5. Says how many pairs it leaves out because their prompt alone fills `max_length`, and stops if all of them do.
    6. Rewards, accuracies and log-probs are means over pairs; the parent's are means over batches, however small.
    The parent's other losses, and its options beside them (`f_divergence_type`, `ld_alpha`, `use_weighting`, several
    losses at once, mixture-of-experts), stay the parent's.
    """

    _shares_prefix = None  # until the model has been tried
    _reference_cache = None

    def __init__(self, model, ref_model=None, args=None, *, train_dataset=None, peft_config=None, **kwargs):
        check_preferences(train_dataset, "train_dataset")
        if kwargs.get("eval_dataset") is not None:
            check_preferences(kwargs["eval_dataset"], "eval_dataset")
        check_padding(kwargs.get("processing_class"))
        is_plain = isinstance(model, PreTrainedModel) and peft_config is None and not is_deepspeed_zero3_enabled()
        # A stream is not read beforehand: its reference is asked when a pair comes by for the first time.
        precompute = args is not None and args.precompute_ref_log_probs and isinstance(train_dataset, Dataset)
        if ref_model is None and is_plain and not precompute:
            ref_model = copy.deepcopy(model).requires_grad_(False).eval()
        args = args or DPOConfig("DPO")
        super().__init__(model, ref_model, args, train_dataset=train_dataset, peft_config=peft_config, **kwargs)
        check_row_lengths(
            self.model.config, args.max_length, train_dataset=self.train_dataset, eval_dataset=self.eval_dataset
        )
        self._learn_to_score()

    def _learn_to_score(self) -> None:
        """Give policy and reference their second forward: before anything is scored, which precomputing does early."""
        if self._shares_prefix is not None:
            return
        models = [self.model]
        add_token_stats_head(self.model)
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            add_token_stats_head(reference)
            if type(causal_lm_of(reference)) is not type(causal_lm_of(self.model)):  # it reads the same folded rows
                models.append(reference)
        can = not is_deepspeed_zero3_enabled() and all(can_share_prefix(causal_lm_of(model)) for model in models)
        self._shares_prefix = self.args.shared_prefix is not False and can
        if self.args.shared_prefix and not (can and self._uses_own_loss):
            why = "the model's attention takes no mask of its own" if not can else "this loss is TRL's"
            logger.warning(f"shared_prefix=True: {why}; the prompt is computed for each answer")

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        if hasattr(dataset, "__len__") and len(prepared) < len(dataset):
            if len(prepared) == 0:
                raise InputError(f"max_length={args.max_length}: every prompt of the {dataset_name} set is longer")
            left_out = f"{len(dataset) - len(prepared)} of {len(dataset)} {dataset_name} pairs"
            logger.warning(f"{left_out} are left out: their prompt alone fills max_length={args.max_length}")
        return prepared

    @property
    def _uses_own_loss(self) -> bool:
        plain = self.f_divergence_type == "reverse_kl" and self.ld_alpha is None
        plain = plain and not self.use_weighting and not self.aux_loss_enabled and self.loss_weights == [1.0]
        return plain and len(self.loss_types) == 1 and self.loss_types[0] in OWN_LOSSES

    def _compute_loss(self, model, inputs, return_outputs):
        if return_outputs or not self._uses_own_loss:
            return super()._compute_loss(model, inputs, return_outputs)
        stats = self._score(model, inputs)
        chosen_logps, rejected_logps = stats["logps"].sum(1).chunk(2)
        ref_chosen_logps, ref_rejected_logps = self._ref_logps(inputs)
        losses, chosen_rewards, rejected_rewards = self._preference_loss(
            chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, inputs["completion_mask"]
        )
        self._log_preferences(inputs, stats, chosen_rewards, rejected_rewards)
        return losses.mean()

    def _score(self, model, inputs) -> dict[str, Tensor]:
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        not_the_models = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
        model_inputs = {name: value for name, value in inputs.items() if name not in not_the_models}
        if self._shares_prefix and set(model_inputs) == {"input_ids", "attention_mask"}:
            shared = share_pairs(**model_inputs)
            if shared is not None:
                model_inputs = {**shared.inputs_for(causal_lm_of(self.model)), "place": shared.place}
        return model(**model_inputs, labels=labels, token_stats=True)

    def _precompute_ref_logps(self, dataset, name, batch_size):
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:  # weights that no process has whole
            return self._precompute_by_file(dataset, name, batch_size)
        if self._reference_cache is None:
            settings = (self.accelerator.mixed_precision, self.ld_alpha)
            key = [model_key(self.accelerator.unwrap_model(self.ref_model or self.model), *settings)]
            self._reference_cache = ReferenceCache(broadcast_object_list(key)[0])
        if not isinstance(dataset, Dataset):
            if not self._uses_own_loss:
                raise InputError(f"precompute_ref_log_probs: on a stream it needs one of loss_type={OWN_LOSSES}")
            return dataset
        batches = (dataset[i : i + batch_size] for i in range(0, len(dataset), batch_size))
        keys = [key for batch in batches for key in pair_keys(self._collate_columns(batch))]
        first_places = {key: i for i, key in enumerate(keys) if key not in self._reference_cache.known}
        missing = dataset.select(first_places.values())
        logger.info(f"{name}: reference log-probs of {len(missing)} of {len(dataset)} pairs are computed")
        loader = DataLoader(missing, batch_size, collate_fn=self.data_collator)
        for inputs in self.accelerator.prepare(loader) if len(missing) else ():
            self._ask_reference(inputs)
        chosen, rejected = self._reference_cache.read(keys)
        columns = {"ref_chosen_logps": chosen.numpy(), "ref_rejected_logps": rejected.numpy()}
        return concatenate_datasets([dataset, Dataset.from_dict(columns)], axis=1)

    def _precompute_by_file(self, dataset, name, batch_size):
        """The parent keeps them in a file named after the rows and the model: the cut is missing from the name, and
        for a dataset in memory each process looks into a temporary folder of its own."""
        if self.accelerator.num_processes > 1 and isinstance(dataset, Dataset) and not dataset.cache_files:
            folder = Path(self.args.output_dir) / f"{name}_with_reference"
            if self.accelerator.is_main_process:
                dataset.save_to_disk(folder)
            self.accelerator.wait_for_everyone()
            dataset = load_from_disk(folder)
        of_model = self._precompute_model_hash
        self._precompute_model_hash = Hasher.hash((of_model, self.args.max_length, self.args.truncation_mode))
        try:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        finally:
            self._precompute_model_hash = of_model

    def _collate_columns(self, columns: dict[str, list]) -> dict[str, Tensor]:
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows = zip(*(columns[name] for name in names), strict=True)
        return self.data_collator([dict(zip(names, row, strict=True)) for row in rows])

    def _ask_reference(self, inputs) -> None:
        """Compute the reference's log-probs of a batch and keep them, those of the other processes in memory alone."""
        keys = torch.tensor([list(key) for key in pair_keys(inputs)], device=inputs["input_ids"].device)
        logps = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        keys, *logps = self.accelerator.gather((keys, *logps))
        write = self.accelerator.is_main_process
        self._reference_cache.add([bytes(key) for key in keys.tolist()], *logps, write=write)

    def _ref_logps(self, inputs) -> tuple[Tensor, Tensor]:
        """log π_ref of chosen and rejected, each (B,): from the dataset, a copy, or without the adapter."""
        if "ref_chosen_logps" in inputs:
            return inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        if self._reference_cache is None:
            reference = self.model if self.ref_model is None else self.ref_model
            return self.compute_ref_log_probs(reference, inputs)
        keys = pair_keys(inputs)
        unknown = torch.tensor(not self._reference_cache.known.keys() >= set(keys), device=inputs["input_ids"].device)
        if self.accelerator.gather(unknown).any():  # together, for the reference may be spread over the processes
            self._ask_reference(inputs)
        return self._reference_cache.read(keys, like=inputs["input_ids"])

    @torch.no_grad()
    def compute_ref_log_probs(self, model, inputs) -> tuple[Tensor, Tensor]:
        if not self._uses_own_loss:
            return super().compute_ref_log_probs(model, inputs)
        self._learn_to_score()
        reference = nullcontext()
        if self.ref_model is None and hasattr(policy := self.accelerator.unwrap_model(self.model), "peft_config"):
            reference = use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None)
        without_checkpoints = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with without_checkpoints, reference, self.accelerator.autocast():
            return self._score(model, inputs)["logps"].sum(1).chunk(2)

    def _preference_loss(self, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, completion_mask):
        logps = (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
        match self.loss_types[0]:
            case "sigmoid":
                return dpo_loss(*logps, self.beta, self.label_smoothing)
            case "robust":
                return robust_dpo_loss(*logps, self.beta, self.label_smoothing)
            case "hinge":
                return hinge_preference_loss(*logps, self.beta, self.label_smoothing)
            case "ipo":  # averaged over tokens, which is what TRL's "ipo" means
                return ipo_mean_loss(*logps, *completion_mask.sum(1).chunk(2), self.beta, self.label_smoothing)

    def _log_preferences(self, inputs, stats: dict[str, Tensor], chosen_rewards: Tensor, rejected_rewards: Tensor):
        metrics = self._metrics["train" if self.model.training else "eval"]
        if self.model.training:
            self._total_train_tokens += self.accelerator.gather(inputs["attention_mask"].sum()).sum().item()
        metrics["num_tokens"] = [self._total_train_tokens]

        chosen, rejected = self.accelerator.gather_for_metrics((chosen_rewards, rejected_rewards))
        # A number a pair: a mean of batch means, the parent's, counts the pairs of a small last batch more than once.
        metrics["rewards/chosen"] += chosen.tolist()
        metrics["rewards/rejected"] += rejected.tolist()
        metrics["rewards/accuracies"] += (chosen > rejected).float().tolist()
        metrics["rewards/margins"] += (chosen - rejected).tolist()

        mask = inputs["completion_mask"][:, 1:].bool()
        per_row = {name: value.detach().float().sum(1) for name, value in stats.items()}
        per_row["tokens"] = mask.float().sum(1)
        rows = self.accelerator.gather_for_metrics({name: torch.stack(x.chunk(2), 1) for name, x in per_row.items()})
        total = {name: value.sum(0) for name, value in rows.items()}  # each (2,): chosen, rejected
        tokens = total["tokens"].clamp(min=1)
        metrics["entropy"].append((total["entropy"].sum() / tokens.sum()).item())
        metrics["mean_token_accuracy"].append((total["is_top1"] / tokens)[0].item())
        for side, name in enumerate(("chosen", "rejected")):
            metrics[f"logps/{name}"] += rows["logps"][:, side].tolist()
            metrics[f"logits/{name}"].append((total["mean_logits"] / tokens)[side].item())
