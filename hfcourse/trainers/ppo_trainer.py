"""Proximal policy optimization against a reward with a KL penalty (course notes, 2.1 to 2.3)."""

import copy
from dataclasses import dataclass, field

import torch
import trl
from accelerate.utils import gather_object
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging
from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import use_adapter

from hfcourse.errors import InputError
from hfcourse.losses import ppo_policy_loss, ppo_value_loss
from hfcourse.masking import masked_mean, masked_moments, masked_sum, mean_and_variance, scale, whiten
from hfcourse.models.token_stats import add_token_stats_head
from hfcourse.models.value_head import add_value_head, load_value_head, save_value_head, split_value_head
from hfcourse.rl import generalized_advantage_estimation, kl_k1, kl_k3, kl_penalized_rewards
from hfcourse.trainers.checks import check_columns, check_prompt_lengths
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.rollout import (
    EpochRepeatSampler,
    RewardModelFunction,
    SaveOnRolloutBoundary,
    checked,
    model_inputs,
    pad_rollout,
    split,
)
from hfcourse.trainers.rollout_config import RolloutConfig

logger = logging.get_logger(__name__)

# float32 rounding between two passes of different shapes stays below 2e-5; a real bug does not.
RATIO_TOLERANCE = {False: 1e-3, True: 5e-2}  # bf16?


@dataclass
class PPOConfig(HardwareDefaults, RolloutConfig):
    """Configuration of [`PPOTrainer`]: TRL's words of RLOO, and PPO's own.

    `beta` is β of the KL penalty, `epsilon` the clip range of the ratio, `num_iterations` the epochs over a rollout.
    """

    num_iterations: int = field(default=4, metadata={"help": "Epochs over each rollout (PPO's μ)."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "How far a value may move from the rollout's."})
    gamma: float = field(default=1.0, metadata={"help": "Discount γ."})
    lam: float = field(default=0.95, metadata={"help": "λ of generalized advantage estimation."})
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of an entropy bonus."})
    normalize_advantages: bool = field(
        default=True, metadata={"help": "Whiten the advantages over the tokens of the whole rollout."}
    )
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Divide the rewards by their standard deviation. The mean stays."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Subtracted from the score of a completion that was cut before its EOS."}
    )


class PPOTrainer(trl.RLOOTrainer):
    """PPO with a clipped policy loss, a critic on the policy's trunk and a KL penalty on every token.

        R(s) = RM(s) - β log(π_RL(s) / π_PT(s))

    What it changes in `trl.RLOOTrainer`, which gives it generation, reward functions and sharding: the advantage of a
    whole completion against its siblings becomes one of each token against a critic. Deviations from the papers
    (https://huggingface.co/papers/1707.06347, https://huggingface.co/papers/1909.08593):

    1. The critic is a linear head on the policy's trunk; it starts at 0.
    2. The score falls on the last token the policy chose, the KL penalty (k1) on every token.
    3. `whiten_rewards` divides and does not shift: on completions of unequal length a shift would pay for length.
    4. Each loss is summed over the tokens of an optimizer step and divided by their number, over all micro-batches
       and processes: a token weighs the same wherever it falls.
    5. The log-probs of the rollout are computed again by the training forward, so that the first ratio is 1.

    Args:
        model: causal LM, its PEFT wrapper, or a path.
        reward_funcs: functions `f(prompts, completions, completion_ids, **columns)`, reward models (or paths to
            them: sequence classifiers with one label), or a list of both, weighted by `reward_weights`.
        ref_model: π_PT. By default a copy of the model, or the model without its adapter.

    `save_model` writes an ordinary model folder and beside it `value_head.safetensors`.
    """

    _tag_names = ["hfcourse", "ppo"]
    _name = "PPO"
    _paper = {"title": "Fine-Tuning Language Models from Human Preferences", "id": "1909.08593"}

    loss_is_scaled_for_ga = True  # by the number of tokens in the optimizer step

    def __init__(self, model, reward_funcs, args=None, train_dataset=None, *, ref_model=None, **kwargs):
        args = args or PPOConfig("PPO")
        check_columns(train_dataset, "train_dataset", "prompt")
        reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        reload_reference = is_deepspeed_zero3_enabled() and ref_model is None
        beta = args.beta
        try:
            # RLOO loads the reference again by the model's name; a copy will do, for models built in memory too.
            args.beta = beta if reload_reference else 0.0
            super().__init__(model, [self._as_function(f, args) for f in reward_funcs], args, train_dataset, **kwargs)
        finally:
            args.beta = beta
        self.beta = beta
        check_prompt_lengths(train_dataset, self._tokenize_prompts, self.model.config, args.max_completion_length)
        self._has_adapter_reference = hasattr(self.model, "peft_config") and ref_model is None
        if beta and not self._has_adapter_reference and not reload_reference:
            self.ref_model = self._prepare_reference(ref_model or self._copy_of_policy())
        if self.ref_model is not None:
            add_token_stats_head(self.accelerator.unwrap_model(self.ref_model), args.temperature)
        add_value_head(self.model)
        add_token_stats_head(self.model, args.temperature)
        self._place_reward_models()
        self.add_callback(SaveOnRolloutBoundary(args.updates_per_rollout))
        self._rollout, self._micro_batches = None, []

    # -- what the parent's __init__ leaves to us ---------------------------------------------------------------------

    def _as_function(self, reward_func, args):
        if isinstance(reward_func, str):
            kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
            reward_func = AutoModelForSequenceClassification.from_pretrained(reward_func, num_labels=1, **kwargs)
        if isinstance(reward_func, PreTrainedModel):
            tokenizer = AutoTokenizer.from_pretrained(reward_func.config._name_or_path)
            return RewardModelFunction(reward_func, tokenizer, eos_token_ids=[])
        return checked(reward_func)

    def _place_reward_models(self):
        for function in self.reward_funcs:
            if isinstance(function, RewardModelFunction):
                function.eos_token_ids = self.eos_token_ids
                function.model = self.accelerator.prepare_model(
                    function.model, evaluation_mode=True, device_placement=True
                )

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

    def _prepare_inputs(self, generation_batch):
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
        batches = split(rollout, self.args.steps_per_generation)
        tokens = torch.stack([batch["completion_mask"].sum() for batch in batches])
        tokens = self.accelerator.reduce(tokens, "sum")
        per_update = tokens.view(-1, self.args.gradient_accumulation_steps).sum(1)
        for i, batch in enumerate(batches):
            batch["num_items"] = per_update[i // self.args.gradient_accumulation_steps]
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

        logps, values, mask = stats["logps"], stats["values"], rollout["completion_mask"]
        rewards = kl_penalized_rewards(scores, logps, ref_logps, mask, self.beta)
        if self.args.whiten_rewards:
            rewards = scale(rewards, mask, self._mean_and_variance(rewards, mask)[1])
        advantages, returns = generalized_advantage_estimation(rewards, values, mask, self.args.gamma, self.args.lam)
        self._log_rollout(scores, logps, ref_logps, values, returns, mask)
        self._log_completions(prompts, completions, advantages, mask)
        if self.normalize_advantages:
            advantages = whiten(advantages, mask, *self._mean_and_variance(advantages, mask))
        return {
            **rollout,
            "old_per_token_logps": logps,
            "old_values": values,
            "advantages": advantages,
            "returns": returns,
        }

    def _score_rollout(self, rollout: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """One pass of the policy (log-probs and values together) and one of the reference over the rollout."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            stats = self._forward_in_batches(self.model, rollout)
            if not self.beta:
                return stats, stats["logps"]
            if not self._has_adapter_reference:
                return stats, self._forward_in_batches(self.ref_model, rollout)["logps"]
            policy = self.accelerator.unwrap_model(self.model)
            with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
                return stats, self._forward_in_batches(self.model, rollout)["logps"]

    def _forward_in_batches(self, model, rollout: dict[str, Tensor]) -> dict[str, Tensor]:
        size = self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size
        rows = {name: x.split(size) for name, x in rollout.items()}
        parts = [self._forward(model, {n: x[i] for n, x in rows.items()}) for i in range(len(rows["prompt_ids"]))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _forward(self, model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Log-probs, entropies and values of the completion, each (B, C), from one forward pass."""
        with self.accelerator.autocast():
            stats = model(**model_inputs(batch), token_stats=True)
        length = batch["completion_ids"].shape[1]
        return {name: x[:, -length:] for name, x in stats.items()}

    def _scores(self, inputs, prompts, completions, completion_ids) -> Tensor:
        """(B,), the weighted sum of the reward functions, for this process's completions."""
        rewards_per_func = self._calculate_rewards(inputs, prompts, completions, completion_ids)
        if torch.isnan(rewards_per_func).all(1).any():
            raise InputError(
                f"reward_funcs: {self.reward_func_names} all gave None for a completion; one must score it"
            )
        scores = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(1)
        if self.reward_clip_range:
            scores = scores.clamp(*self.reward_clip_range)
        metrics = self._metrics["train" if self.model.training else "eval"]
        for i, name in enumerate(self.reward_func_names):
            column = rewards_per_func[:, i]
            metrics[f"rewards/{name}/mean"].append(column.nanmean().item())
            self._logs["rewards"][name].extend(column.tolist())
        metrics["reward"].append(scores.mean().item())
        metrics["reward_std"].append(scores.std(unbiased=False).item())
        start = self.accelerator.process_index * len(prompts)
        return scores[start : start + len(prompts)]

    def _mean_and_variance(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Over the real tokens of all processes."""
        return mean_and_variance(*self.accelerator.reduce(torch.stack(masked_moments(x, mask)), "sum"))

    # -- update ------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        mask = inputs["completion_mask"]
        stats = self._forward(model, inputs)
        policy_losses, clipped = ppo_policy_loss(
            stats["logps"], inputs["old_per_token_logps"], inputs["advantages"], self.args.epsilon
        )
        value_losses, value_clipped = ppo_value_loss(
            stats["values"], inputs["old_values"], inputs["returns"], self.args.cliprange_value
        )
        losses = policy_losses + self.args.vf_coef * value_losses - self.args.entropy_coef * stats["entropy"]
        num_items = inputs.get("num_items", mask.sum())
        self._log_update(
            inputs,
            {
                "loss/policy": policy_losses,
                "loss/value": value_losses,
                "entropy": stats["entropy"],
                "clip_ratio/region_mean": clipped.float(),
                "clip_ratio/value": value_clipped.float(),
                "ratio": (stats["logps"] - inputs["old_per_token_logps"]).exp(),
            },
        )
        # DDP averages the gradients of the processes; the sum over all of them is wanted.
        return masked_sum(losses, mask, num_items) * (self.accelerator.num_processes if self.model.training else 1)

    # -- metrics -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _log_rollout(self, scores, logps, ref_logps, values, returns, mask):
        metrics = self._metrics["train" if self.model.training else "eval"]
        k1 = kl_k1(logps, ref_logps).where(mask.bool(), 0.0)
        kl_sequence, score = self.accelerator.gather(k1.sum(1)).mean(), self.accelerator.gather(scores).mean()
        metrics["kl"].append(self._mean_and_variance(k1, mask)[0].item())
        metrics["kl_k3"].append(self._mean_and_variance(kl_k3(logps, ref_logps), mask)[0].item())
        metrics["kl_sequence"].append(kl_sequence.item())
        metrics["rlhf_reward"].append((score - self.beta * kl_sequence).item())
        metrics["values/mean"].append(self._mean_and_variance(values, mask)[0].item())
        unexplained = self._mean_and_variance(returns - values, mask)[1]
        variance = self._mean_and_variance(returns, mask)[1]
        metrics["explained_variance"].append((1 - unexplained / variance.clamp(min=1e-8)).item())

    def _log_completions(self, prompts, completions, advantages, mask):
        self._logs["prompt"].extend(gather_object(prompts))
        self._logs["completion"].extend(gather_object(completions))
        per_row = [masked_mean(a, m).item() for a, m in zip(advantages, mask, strict=True)]
        self._logs["advantages"].extend(gather_object(per_row))
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()

    @torch.no_grad()
    def _log_update(self, inputs, per_token: dict[str, Tensor]):
        mode = "train" if self.model.training else "eval"
        sums = torch.stack([masked_sum(x, inputs["completion_mask"], 1) for x in per_token.values()])
        sums = self.accelerator.reduce(torch.cat([sums, inputs["completion_mask"].sum()[None]]), "sum")
        means = dict(zip(per_token, (sums[:-1] / sums[-1].clamp(min=1)).tolist(), strict=True))
        ratio = means.pop("ratio")
        for name, value in means.items():
            self._metrics[mode][name].append(value)
        if mode == "train" and self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            self._metrics[mode]["ratio_at_step0"].append(ratio)
            if abs(ratio - 1) > RATIO_TOLERANCE[self.args.bf16]:
                logger.warning(f"ratio_at_step0 is {ratio:.4f}, not 1: the policy is not the one that was sampled")

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir=None, state_dict=None):
        state_dict = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
        policy, head = split_value_head(state_dict)
        super()._save(output_dir, state_dict=policy)
        if self.args.should_save:
            save_value_head(head, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            load_value_head(self.model if model is None else model, resume_from_checkpoint)
