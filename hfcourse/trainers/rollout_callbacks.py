"""When a checkpoint of a rollout trainer may be written, and what it must hold beside the model."""

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hfcourse.rl import adapted_beta


class SaveOnRolloutBoundary(TrainerCallback):
    """Moves a due checkpoint to the end of the rollout: inside one, the rollout itself would have to be saved too."""

    def __init__(self, updates_per_rollout: int):
        self.updates_per_rollout, self.is_due = updates_per_rollout, False

    def on_step_end(self, args, state, control, **kwargs):
        self.is_due |= control.should_save
        at_boundary = state.global_step % self.updates_per_rollout == 0 or control.should_training_stop
        control.should_save = self.is_due and at_boundary
        self.is_due &= not control.should_save
        return control


class RolloutMemory(TrainerCallback, ExportableState):
    """What changes from rollout to rollout beside the model; it lies in `trainer_state.json` and is read on resume.

    beta: β of the KL penalty, moved by the adaptive controller.
    reward_means: of each reward, its mean on completions of the untrained policy; empty until it is measured.
    """

    def __init__(self, beta: float):
        self.beta, self.reward_means = beta, []

    def adapt(self, kl: float, target_kl: float, num_sequences: int, horizon: int) -> None:
        """One step of the controller, after a rollout whose completions lie `kl` nats from the reference."""
        self.beta = adapted_beta(self.beta, kl, target_kl, num_sequences, horizon)

    def state(self) -> dict:
        return {"args": {}, "attributes": {"beta": self.beta, "reward_means": self.reward_means}}

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(type(self).__name__, self.state())["attributes"]
        self.beta, self.reward_means = saved["beta"], saved["reward_means"]
