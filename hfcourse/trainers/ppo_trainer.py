"""Proximal policy optimization against a reward with a KL penalty (course notes, 2.1 to 2.3)."""

from dataclasses import dataclass, field

from torch import Tensor
from trl.trainer.utils import disable_dropout_in_model

from hfcourse.errors import InputError
from hfcourse.losses import ppo_policy_loss, ppo_value_loss
from hfcourse.masking import masked_sum, scale, whiten
from hfcourse.models.adapters import VALUE_ADAPTER, without_adapters
from hfcourse.models.token_stats import causal_lm_of
from hfcourse.models.value_head import add_value_head, load_value_head, save_value_head, split_value_head
from hfcourse.rl import generalized_advantage_estimation, kl_penalized_rewards
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.rollout_config import RolloutConfig
from hfcourse.trainers.rollout_trainer import RolloutTrainer


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
    value_model: str | None = field(
        default=None,
        metadata={
            "help": "The critic. Unset: a linear head on the policy's own trunk. adapter: with LoRA, a second adapter "
            "on the same base. A path: a model of its own; a reward model brings its head."
        },
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of an entropy bonus."})
    normalize_advantages: bool = field(
        default=True, metadata={"help": "Whiten the advantages over the tokens of the whole rollout."}
    )
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Divide the rewards by their standard deviation. The mean stays."}
    )


class PPOTrainer(RolloutTrainer):
    """PPO with a clipped policy loss, a critic on the policy's trunk and a KL penalty on every token.

        R(s) = RM(s) - β log(π_RL(s) / π_PT(s))

    What it changes in its parent (and in `trl.RLOOTrainer`, the parent's): the advantage of a whole completion against
    its siblings becomes one of each token against a critic. Deviations from the papers
    (https://huggingface.co/papers/1707.06347, https://huggingface.co/papers/1909.08593):

    1. The critic is a linear head on the policy's trunk, starting at 0, unless `value_model` says otherwise.
    2. The score falls on the last token the policy chose, the KL penalty (k1) on every token.
    3. `whiten_rewards` divides and does not shift: on completions of unequal length a shift would pay for length.
    4. Each loss is summed over the tokens of an optimizer step and divided by their number, over all micro-batches
       and processes: a token weighs the same wherever it falls.

    Args:
        model: causal LM, its PEFT wrapper, or a path.
        reward_funcs: functions `f(prompts, completions, completion_ids, **columns)`, reward models (or paths to
            them: sequence classifiers with one label), or a list of both, weighted by `reward_weights`.
            With LoRA, the folder of a reward model's adapter on the policy's base costs no second base.
        ref_model: π_PT. By default a copy of the model, or the model without its adapter.
        value_model: a model in place of the path in `args.value_model`; its trunk is trained as the critic.

    `save_model` writes an ordinary model folder and beside it `value_head.safetensors`, the whole critic.
    """

    _tag_names = ["hfcourse", "ppo"]
    _name = "PPO"
    _paper = {"title": "Fine-Tuning Language Models from Human Preferences", "id": "1909.08593"}

    def __init__(self, model, reward_funcs, args=None, train_dataset=None, *, value_model=None, **kwargs):
        super().__init__(model, reward_funcs, args or PPOConfig("PPO"), train_dataset, **kwargs)
        value_model = self.args.value_model if value_model is None else value_model
        if value_model == "adapter" and self.args.gradient_checkpointing:
            # What is recomputed in the backward pass would go through the adapter that is active by then.
            raise InputError("gradient_checkpointing: does not go with value_model=adapter; unset one of them")
        add_value_head(self.model, value_model)
        if self._shares_prefix and hasattr(causal_lm_of(self.model), "value_trunk"):
            self._shares_prefix = self._without_shared_prefix("value_model has a trunk of its own")
        if self.args.disable_dropout:
            disable_dropout_in_model(self.model)

    def _assign_credit(self, rollout, scores, stats, ref_logps):
        logps, values, mask = stats["logps"], stats["values"], rollout["completion_mask"]
        rewards = kl_penalized_rewards(scores, logps, ref_logps, mask, self.beta)
        if self.args.whiten_rewards:
            rewards = scale(rewards, mask, self._mean_and_variance(rewards, mask)[1])
        advantages, returns = generalized_advantage_estimation(rewards, values, mask, self.args.gamma, self.args.lam)
        self._log_critic(values, returns, mask)
        if self.normalize_advantages:
            advantages = whiten(advantages, mask, *self._mean_and_variance(advantages, mask))
        return {"old_values": values, "advantages": advantages, "returns": returns}

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
        losses = policy_losses + self.args.vf_coef * value_losses
        if self.args.entropy_coef:  # at 0 its derivative would be computed all the same
            losses = losses - self.args.entropy_coef * stats["entropy"]
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

    def _log_critic(self, values: Tensor, returns: Tensor, mask: Tensor):
        metrics = self._metrics["train" if self.model.training else "eval"]
        unexplained, variance = (self._mean_and_variance(x, mask)[1] for x in (returns - values, returns))
        metrics["values/mean"].append(self._mean_and_variance(values, mask)[0].item())
        metrics["explained_variance"].append((1 - unexplained / variance.clamp(min=1e-8)).item())

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir=None, state_dict=None):
        state_dict = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
        policy, head = split_value_head(state_dict)
        with without_adapters(self.accelerator.unwrap_model(self.model), {VALUE_ADAPTER, *self._reward_adapters}):
            super()._save(output_dir, state_dict=policy)
        if self.args.should_save:
            save_value_head(head, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            load_value_head(self.model if model is None else model, resume_from_checkpoint)
