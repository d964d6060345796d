"""What every trainer of the course has beside its method: its card, its secrets, and processes that stay together."""

from hfcourse.hub.model_card import ModelCardMixin


class TrainerMixin(ModelCardMixin):
    """Written first among a trainer's parents: `class DPOTrainer(TrainerMixin, trl.DPOTrainer)`.

    It changes this in `transformers.Trainer` 5.23:
    1. The model card is the course's ([`ModelCardMixin`]).
    2. `evaluate()` may come before `train()` in several processes. The parent prepares the model for evaluation, where
       DDP has no use, and marks it as prepared; training then takes it without DDP, and each process learns alone.
    3. training_args.bin, a pickle of the arguments which a push uploads, holds no `hub_token`, whatever their class.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        arguments = self.args
        if arguments.hub_token is not None:
            # Pickle asks the instance before its class; TRL's and transformers' classes hide nothing.
            arguments.__getstate__ = lambda: {
                n: x for n, x in vars(arguments).items() if n not in ("hub_token", "__getstate__")
            }

    def train(self, *args, **kwargs):
        uses_ddp = self.accelerator.distributed_type.value.startswith("MULTI_")
        if uses_ddp and self.model_wrapped is self.model:
            self._forget_that_it_is_prepared()
        return super().train(*args, **kwargs)

    def _forget_that_it_is_prepared(self) -> None:
        prepared = self.accelerator._models
        prepared[:] = [model for model in prepared if model is not self.model]
        state = vars(self.model)
        state.pop("_is_accelerate_prepared", None)
        if "_original_forward" in state:  # with mixed precision: autocast is put around `forward` again
            self.model.forward = state.pop("_original_forward")
