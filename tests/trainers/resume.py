"""A run that is killed and goes on, against one that is not: the same weights and losses, to the bit."""

import torch


def assert_resume_equals_no_kill(make, folder, max_steps: int, killed_after: int) -> None:
    """With dropout, and killed within an epoch: the same rows and random numbers must follow as of no kill.

    `make(**config)` is a new trainer, whose model the same seed has made.
    """
    settings = dict(per_device_train_batch_size=1, optim="adamw_torch", learning_rate=1e-3, save_strategy="steps")

    def run(name, checkpoint=None):
        trainer = make(output_dir=str(folder / name), max_steps=max_steps, save_steps=killed_after, **settings)
        dropout = lambda module, args, output: torch.dropout(output, 0.1, module.training)  # noqa: E731
        trainer.model.get_input_embeddings().register_forward_hook(dropout)
        trainer.train(resume_from_checkpoint=checkpoint)
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        return weights, [log["loss"] for log in trainer.state.log_history if "loss" in log]

    whole, losses = run("whole")
    resumed, its_losses = run("killed", str(folder / "whole" / f"checkpoint-{killed_after}"))
    assert torch.equal(resumed, whole)
    assert its_losses == losses
    assert len(losses) == max_steps
