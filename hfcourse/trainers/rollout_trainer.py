"""What methods that learn from their own completions share: the policy writes, the reward functions score."""

import copy
from itertools import cycle, islice

import torch
import trl
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging
from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed, prepare_fsdp

from hfcourse.errors import InputError
from hfcourse.models.adapters import RewardAdapter, active_adapter, is_reward_adapter
from hfcourse.models.reward_model import load_reward_model
from hfcourse.models.shared_prefix import can_share_prefix, share_groups
from hfcourse.models.token_stats import add_token_stats_head, causal_lm_of
from hfcourse.trainers.checks import check_columns, check_padding, check_prompt_lengths
from hfcourse.trainers.mixin import TrainerMixin
from hfcourse.trainers.rewards import RewardModelFunction, checked
from hfcourse.trainers.rollout import EpochRepeatSampler, by_length, model_inputs, pad_rollout, split, trim
from hfcourse.trainers.rollout_callbacks import RolloutMemory, SaveOnRolloutBoundary
from hfcourse.trainers.rollout_config import check_generation_config
from hfcourse.trainers.rollout_metrics import RolloutMetrics

logger = logging.get_logger(__name__)


class RolloutTrainer(TrainerMixin, RolloutMetrics, trl.RLOOTrainer):
    """`trl.RLOOTrainer` up to the scores of a rollout; `_assign_credit` and `_compute_loss` are the method's.

    From the parent: generation (transformers or vLLM), reward functions, sharding. Changed, beside the method:

    1. The log-probs of a rollout are computed again by the training forward, so that the first ratio is 1.
    2. The reference is a copy of the policy, or the policy without its adapter; the parent loads it again by its name.
    3. Reward models read an answer as in training, its EOS included; a NaN or an infinite reward stops the run.
    4. The rollout is parted anew for every epoch; rows of like length share a micro-batch, trimmed to the longest.
    5. The prompt is computed once for its `num_generations` completions (`shared_prefix`), and log-probs equal the
       plain batch's to rounding: 2e-5 a token in float32, 0.01 in bf16.
    6. Checkpoints fall on the end of a rollout, and a resumed run meets the prompts that the first would have met.
    """

    loss_is_scaled_for_ga = True  # by the number of tokens in the optimizer step

    def __init__(self, model, reward_funcs, args, train_dataset=None, *, ref_model=None, **kwargs):
        check_columns(train_dataset, "train_dataset", "prompt")
        check_padding(kwargs.get("processing_class"))
        reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        reload_reference = is_deepspeed_zero3_enabled() and ref_model is None
        beta = args.beta
        self.memory, self._reward_adapters = RolloutMemory(beta), []
        self._rollout, self._micro_batches = None, []
        try:
            # RLOO loads the reference again by the model's name; a copy will do, for models built in memory too.
            args.beta = beta if reload_reference else 0.0
            super().__init__(model, [self._as_function(f) for f in reward_funcs], args, train_dataset, **kwargs)
        finally:
            args.beta = beta
        self.beta = beta
        if not self.use_vllm:
            check_generation_config(self.model.generation_config)
        self._add_stop_tokens(args.stop_tokens or ())
        check_prompt_lengths(train_dataset, self._tokenize_prompts, self.model.config, args.max_completion_length)
        self._has_adapter_reference = hasattr(self.model, "peft_config") and ref_model is None
        self._shares_prefix = self._can_share_prefix(self.model, ref_model)
        if beta and not self._has_adapter_reference and not reload_reference:
            self.ref_model = self._prepare_reference(self._copy_of_policy() if ref_model is None else ref_model)
        if self.ref_model is not None:
            add_token_stats_head(self.accelerator.unwrap_model(self.ref_model), args.temperature)
        add_token_stats_head(self.model, args.temperature)
        self._place_reward_models()
        self.add_callback(self.memory)
        self.add_callback(SaveOnRolloutBoundary(args.updates_per_rollout))

    # -- what the parent's __init__ leaves to us ---------------------------------------------------------------------

    def _as_function(self, reward_func):
        if isinstance(reward_func, str) and is_reward_adapter(reward_func):
            tokenizer = AutoTokenizer.from_pretrained(reward_func)
            return RewardModelFunction(RewardAdapter(reward_func), tokenizer, eos_token_ids=[])
        if isinstance(reward_func, str):
            reward_func = load_reward_model(reward_func)
        if isinstance(reward_func, PreTrainedModel):
            tokenizer = AutoTokenizer.from_pretrained(reward_func.config._name_or_path)
            return RewardModelFunction(reward_func, tokenizer, eos_token_ids=[])
        return checked(reward_func)

    def _place_reward_models(self):
        for function in self.reward_funcs:
            if isinstance(function, RewardModelFunction):
                function.eos_token_ids = self.eos_token_ids
                if isinstance(function.model, RewardAdapter):
                    function.model.attach(self.model, f"reward_{len(self._reward_adapters)}")
                    self._reward_adapters.append(function.model.name)
                    continue
                function.model = self.accelerator.prepare_model(
                    function.model, evaluation_mode=True, device_placement=True
                )

    def _add_stop_tokens(self, tokens):
        ids = self._tokenizer.convert_tokens_to_ids(list(tokens))
        for token, i in zip(tokens, ids, strict=True):
            if i is None or i == self._tokenizer.unk_token_id:
                raise InputError(f"stop_tokens: '{token}' is no token of the vocabulary; give tokens, not texts")
        self.eos_token_ids = [*self.eos_token_ids, *(i for i in ids if i not in self.eos_token_ids)]
        if not self.use_vllm:
            self.generation_config.eos_token_id = self.eos_token_ids
            self.generation_kwargs["eos_token_id"] = self.eos_token_ids

    @property
    def beta(self) -> float:
        """β of the KL penalty; with `target_kl` it moves from rollout to rollout."""
        return self.memory.beta

    @beta.setter
    def beta(self, value: float):
        self.memory.beta = value

    def _can_share_prefix(self, *models: PreTrainedModel | None) -> bool:
        """Whether the completions of a prompt can go through these models as one sequence."""
        if self.args.shared_prefix is False or self.num_generations == 1:
            return False
        if self.args.per_device_train_batch_size % self.num_generations:
            return self._without_shared_prefix("per_device_train_batch_size is no multiple of num_generations")
        models = [causal_lm_of(model) for model in models if model is not None]
        if is_deepspeed_zero3_enabled() or not all(can_share_prefix(model) for model in models):
            return self._without_shared_prefix("the model's attention takes no mask of its own")
        return True

    def _without_shared_prefix(self, why: str) -> bool:
        if self.args.shared_prefix:
            logger.warning(f"shared_prefix=True: {why}; the prompt is computed for each completion")
        return False

    @property
    def _group_size(self) -> int:
        """How many rows after one another share the computation of their prompt; 1 where none do."""
        return self.num_generations if self._shares_prefix and self.model.training else 1

    def _copy_of_policy(self) -> PreTrainedModel:
        reference = copy.deepcopy(self.model)
        reference.__dict__.pop("forward", None)  # TRL's patch, which would go on to run the policy
        return reference

    def _prepare_reference(self, reference: PreTrainedModel):
        reference.requires_grad_(False).eval()
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _get_train_sampler(self, dataset=None):
        return EpochRepeatSampler(
            self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
            epoch=lambda: self.state.epoch,
        )

    # -- rollout -----------------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts):
        prompt_ids, *rest = super()._tokenize_prompts(prompts)
        if self.args.max_prompt_length is not None:
            prompt_ids = [ids[-self.args.max_prompt_length :] for ids in prompt_ids]
        for i, ids in enumerate(prompt_ids):
            if not ids:
                raise InputError(f"prompt: row {i} of the batch has no tokens; start prompts with the BOS token")
        return prompt_ids, *rest

    def _prepare_inputs(self, generation_batch):
        if self.args.num_centering_samples and not self.memory.reward_means:
            self.memory.reward_means = self._measure_reward_means()
        if not self.model.training:
            return self._generate_and_score_completions(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._rollout is None:
            self._rollout = self._generate_and_score_completions(generation_batch)
        if self._step % steps == 0:
            self._micro_batches = self._split_into_updates(self._rollout)
        return self._micro_batches[self._step % steps]

    def _split_into_updates(self, rollout: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Micro-batches of one epoch, each knowing the number of tokens of the optimizer step it belongs to."""
        num_batches, per_update = self.args.steps_per_generation, self.args.gradient_accumulation_steps
        batches = split(rollout, num_batches, per_update, self._group_size)
        tokens = self.accelerator.reduce(torch.stack([b["completion_mask"].sum() for b in batches]), "sum")
        num_items = tokens.view(-1, per_update).sum(1)
        for i, batch in enumerate(batches):
            batch["num_items"] = num_items[i // per_update]
        return batches

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs) -> dict[str, Tensor]:
        prompts = [row["prompt"] for row in inputs]
        prompt_ids, completion_ids, completions = self._generate(prompts)
        rollout = pad_rollout(prompt_ids, completion_ids, self._tokenizer.pad_token_id)
        rollout = {name: x.to(self.accelerator.device) for name, x in rollout.items()}
        finished = torch.tensor([ids[-1] in self.eos_token_ids for ids in completion_ids]).to(self.accelerator.device)
        rollout["attention_to_completion"] = rollout["completion_mask"].clone()
        if self.mask_truncated_completions:
            rollout["completion_mask"] *= finished.unsqueeze(1)

        stats, ref_logps = self._score_rollout(rollout)
        scores = self._scores(inputs, prompts, completions, completion_ids)
        if self.args.missing_eos_penalty is not None:
            scores = scores - self.args.missing_eos_penalty * ~finished

        credit = self._assign_credit(rollout, scores, stats, ref_logps)
        if self.beta:  # without it there is no reference to be far from
            kl = self._log_kl(scores, stats["logps"], ref_logps, rollout["completion_mask"])
            if self.args.target_kl is not None and self.model.training:
                self.memory.adapt(kl, self.args.target_kl, self.args.generation_batch_size, self.args.kl_horizon)
        self._log_completions(prompts, completions, credit["advantages"], rollout["completion_mask"])
        return {**rollout, "old_per_token_logps": stats["logps"], **credit}

    def _assign_credit(self, rollout, scores, stats, ref_logps) -> dict[str, Tensor]:
        """The method itself: what each token is worth, `advantages` (B, C), and what else the loss reads.

        Args:
            rollout: prompts, completions and their masks.
            scores: (B,), of the reward functions.
            stats: the policy's `logps`, `entropy`, … (and `values`), each (B, C).
            ref_logps: (B, C), log π_ref; equal to `logps` where beta is 0.
        """
        raise TypeError(f"{type(self).__name__} must say how it assigns credit")

    def _score_rollout(self, rollout: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """One pass of the policy (log-probs and values together) and one of the reference over the rollout."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            stats = self._forward_in_batches(self.model, rollout)
            if not self.beta:
                return stats, stats["logps"]
            if not self._has_adapter_reference:
                return stats, self._forward_in_batches(self.ref_model, rollout, values=False)["logps"]
            policy = self.accelerator.unwrap_model(self.model)
            with active_adapter(policy, "ref" if "ref" in policy.peft_config else None):
                return stats, self._forward_in_batches(self.model, rollout, values=False)["logps"]

    def _forward_in_batches(self, model, rollout: dict[str, Tensor], values: bool = True) -> dict[str, Tensor]:
        """[`_forward`] of all rows, in batches of rows of like length, each trimmed to its longest."""
        size = self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size
        shape, stats = rollout["completion_ids"].shape, {}
        for rows in by_length(rollout, group_size=self._group_size).split(size):
            batch = trim({name: x[rows] for name, x in rollout.items()})
            for name, x in self._forward(model, batch, values).items():
                stats.setdefault(name, x.new_zeros(shape))[rows, : x.shape[1]] = x
        return stats

    def _forward(self, model, batch: dict[str, Tensor], values: bool = True) -> dict[str, Tensor]:
        """Log-probs, entropies and values of the completion, each (B, C), from one forward pass."""
        inputs = model_inputs(batch)
        if self._group_size > 1:
            causal_lm = causal_lm_of(self.accelerator.unwrap_model(model))
            width = causal_lm.config.get_text_config().hidden_size
            shared = share_groups(inputs["input_ids"], inputs["attention_mask"], self._group_size, width)
            if shared is not None:
                inputs = {**shared.inputs_for(causal_lm), "place": shared.place, "labels": inputs["labels"]}
        with self.accelerator.autocast():
            stats = model(**inputs, token_stats=True, values=values)
        length = batch["completion_ids"].shape[1]
        return {name: x[:, -length:] for name, x in stats.items()}

    def _scores(self, inputs, prompts, completions, completion_ids) -> Tensor:
        """(B,), the weighted sum of the reward functions, for this process's completions."""
        rewards_per_func = self._calculate_rewards(inputs, prompts, completions, completion_ids)
        if torch.isnan(rewards_per_func).all(1).any():
            raise InputError(
                f"reward_funcs: {self.reward_func_names} all gave None for a completion; one must score it"
            )
        means = rewards_per_func.new_tensor(self.memory.reward_means or 0.0)
        weights = self.reward_weights.to(rewards_per_func.device)
        scores = ((rewards_per_func - means) * weights).nansum(1)
        if self.reward_clip_range:
            scores = scores.clamp(*self.reward_clip_range)
        self._log_rewards(rewards_per_func, scores)
        start = self.accelerator.process_index * len(prompts)
        return scores[start : start + len(prompts)]

    @torch.no_grad()
    def _measure_reward_means(self) -> list[float]:
        """Each reward's mean on completions of the policy as it is, to the first prompts of the training data."""
        was_training = self.model.training
        share = -(-self.args.num_centering_samples // self.accelerator.num_processes)
        start, size = self.accelerator.process_index * share, self.args.generation_batch_size
        self.model.eval()
        rows = list(islice(cycle(self.train_dataset), start, start + share))
        rewards = []
        for inputs in (rows[i : i + size] for i in range(0, share, size)):
            prompts = [row["prompt"] for row in inputs]
            _, completion_ids, completions = self._generate(prompts)
            rewards.append(self._calculate_rewards(inputs, prompts, completions, completion_ids))
        self._metrics["eval"].clear()
        self.model.train(was_training)
        return torch.cat(rewards).nanmean(0).nan_to_num(0.0).tolist()
