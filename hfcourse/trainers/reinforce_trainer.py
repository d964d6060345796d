"""REINFORCE: the policy gradient in its sampled form (course notes, 2.2.2) on a reward with a KL penalty."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import trl
from torch import Tensor

from hfcourse.errors import InputError
from hfcourse.losses import reinforce_loss
from hfcourse.masking import masked_moments, mean_and_variance, whiten
from hfcourse.rl import kl_penalized_rewards, leave_one_out_advantages
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.rollout_config import RolloutConfig
from hfcourse.trainers.rollout_trainer import RolloutTrainer


@dataclass
class REINFORCEConfig(HardwareDefaults, RolloutConfig):
    """Configuration of [`REINFORCETrainer`]: TRL's words of RLOO, and the baseline."""

    baseline: Literal["none", "mean", "leave_one_out"] = field(
        default="mean",
        metadata={
            "help": "Subtracted from the return of a completion: nothing, the mean of the rollout, or the mean of the "
            "other completions of its prompt (num_generations ≥ 2)."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.baseline not in ("none", "mean", "leave_one_out"):
            raise InputError(f"baseline={self.baseline}: is one of none, mean, leave_one_out")
        if self.baseline == "leave_one_out" and self.num_generations < 2:
            raise InputError(f"num_generations={self.num_generations}: baseline leave_one_out needs at least 2")
        if self.updates_per_rollout != 1:
            raise InputError(
                f"{self.updates_per_rollout} updates a rollout: the second would see another policy's completions. "
                "Set num_iterations=1 and steps_per_generation=gradient_accumulation_steps, or use PPO"
            )
        if self.epsilon != trl.RLOOConfig.epsilon:
            raise InputError("epsilon: there is no ratio to clip in REINFORCE; unset it, or use PPO")


class REINFORCETrainer(RolloutTrainer):
    """REINFORCE with a KL penalty in the reward.

        θ ← θ + α (1/m) Σ_i (R(s_i) - b_i) ∇ log p_θ(s_i)          R(s) = RM(s) - β log(π_RL(s) / π_PT(s))

    What it changes in its parent (and in `trl.RLOOTrainer`, the parent's): there is no ratio and no clip, for every
    completion serves one update. m is the number of completions of the optimizer step, over all processes; log p is
    summed over the tokens. With `baseline="leave_one_out"` the gradient is RLOO's. Deviations from the notes:

    1. `baseline="mean"` subtracts the mean return b. It contains R(s_i) itself, which scales the expected gradient by
       1 - 1/m and does not turn it; `leave_one_out` is unbiased, `none` is the notes' formula.
    2. `normalize_advantages` divides by the standard deviation over the rollout.

    Args:
        model, reward_funcs, ref_model: see [`hfcourse.PPOTrainer`].
    """

    _tag_names = ["hfcourse", "reinforce"]
    _name = "REINFORCE"
    _paper = {
        "title": "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        "id": "2402.14740",
    }

    def __init__(self, model, reward_funcs, args=None, train_dataset=None, **kwargs):
        super().__init__(model, reward_funcs, args or REINFORCEConfig("REINFORCE"), train_dataset, **kwargs)

    def _assign_credit(self, rollout, scores, stats, ref_logps):
        # A completion that the loss leaves out (mask_truncated_completions) still counts in its siblings' baseline.
        mask = rollout["attention_to_completion"]
        returns = kl_penalized_rewards(scores, stats["logps"], ref_logps, mask, self.beta).sum(1)
        start = self.accelerator.process_index * len(returns)
        advantages = self._advantages(self.accelerator.gather(returns))[start : start + len(returns)]
        return {"advantages": advantages.unsqueeze(1).where(mask.bool(), 0.0)}

    def _advantages(self, returns: Tensor) -> Tensor:
        """R(s_i) - b_i (and whitened, if asked for), each (m,), over the whole rollout."""
        if self.args.baseline == "leave_one_out" and self.model.training:
            advantages = leave_one_out_advantages(returns, self.num_generations)
        elif self.args.baseline == "none":
            advantages = returns
        else:  # evaluation may come in parts of groups, and nothing is learnt from it
            advantages = returns - returns.mean()
        if not self.normalize_advantages:
            return advantages
        counts = torch.ones_like(advantages)
        return whiten(advantages, counts, *mean_and_variance(*masked_moments(advantages, counts)))

    def _compute_loss(self, model, inputs):
        stats = self._forward(model, inputs)
        losses = reinforce_loss(stats["logps"], inputs["advantages"], inputs["completion_mask"])
        ratio = (stats["logps"] - inputs["old_per_token_logps"]).exp()
        self._log_update(inputs, {"entropy": stats["entropy"], "ratio": ratio})
        # Micro-batches and processes hold equally many completions: the mean of their means is 1/m of the sum.
        return losses.mean() / (self.args.gradient_accumulation_steps if self.model.training else 1)
