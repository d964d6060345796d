"""What TRL's last PPO (trl 1.12.0, `trl.experimental.ppo`) computes on a fixed rollout; wrote trl_ppo.json beside it.

    python -m pip install --no-deps --target /somewhere trl==1.12.0
    PYTHONPATH=/somewhere python tests/trainers/golden/trl_ppo.py

One update of one epoch of one minibatch by `PPOTrainer.train()` itself. Sampling is replaced by given completions,
whose old log-probs are another model's, so that ratios differ from 1 and clip. Every weight is a sine, so that the
test builds the same models without storing them.
"""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

PAD, EOS = 0, 1
CONFIG = dict(
    vocab_size=9, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=32, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=EOS, num_labels=1,
)  # fmt: skip
BETA, EPSILON, CLIPRANGE_VALUE, VF_COEF, TEMPERATURE = 0.3, 0.1, 0.2, 0.5, 0.8
QUERIES = [[PAD, PAD, 2], [PAD, 3, 4], [5, 6, 7], [PAD, PAD, 8]]
ENDED = [[EOS, PAD, PAD, PAD], [6, EOS, PAD, PAD], [3, 3, 5, EOS], [8, 7, 6, 5]]
CASES = {
    # All cut at four tokens: TRL puts the score on the last token, as we do.
    "cut": {"lam": 0.95, "responses": [[2, 3, 4, 5], [6, 7, 8, 2], [3, 3, 5, 5], [8, 7, 6, 5]]},
    # Ended after one to four tokens. TRL's score falls one slot later; at λ = 1 the advantages are the same.
    "ended": {"lam": 1.0, "responses": ENDED},
    "ended, lambda 0.95": {"lam": 0.95, "responses": ENDED},
}
# Each ends with the stop token that the config names, which is not the tokenizer's EOS.
STOP = 5
STOPPED = [[5, 2, 2, 2], [3, 5, 2, 2], [3, 3, 5, 2], [2, 2, 2, 5]]
SCORES = [1.5, -0.5, 0.25, 2.0]


def wavy(model, shift: float, scale: float = 0.5):
    """The model with the weights scale · sin(shift + its own index), norms around 1."""
    index = 0
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.sin(shift + torch.arange(index, index + parameter.numel()) * 0.7)
            parameter.copy_(scale * values.view_as(parameter) + (1.0 if parameter.dim() == 1 else 0.0))
            index += parameter.numel()
    return model.eval()


def policy():
    return wavy(LlamaForCausalLM(LlamaConfig(**CONFIG)), 0.0)


def reference():
    return wavy(LlamaForCausalLM(LlamaConfig(**CONFIG)), 0.3)


def old_policy():
    """The policy that is said to have sampled: close to the policy."""
    return wavy(LlamaForCausalLM(LlamaConfig(**CONFIG)), 0.05)


def critic():
    """The policy's trunk under a head of its own, as our critic is."""
    model = LlamaForSequenceClassification(LlamaConfig(**CONFIG)).eval()
    model.model.load_state_dict(policy().model.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(torch.cos(torch.arange(8.0)))
    return model


def run(case: dict, micro_batch: int = 4, num_mini_batches: int = 1, pad: int = PAD, **settings) -> dict:
    """One update by TRL, watched: every intermediate that its train() passes through a function of its own."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.ppo import PPOConfig, ppo_trainer

    queries, responses = (torch.tensor(x) for x in (QUERIES, case["responses"]))
    queries, responses = (x.masked_fill(x == PAD, pad) for x in (queries, responses))
    seen = {"log_softmax": [], "whiten": [], "values": [], "metrics": {}}

    def watch(name, key):
        function = getattr(ppo_trainer, name)

        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen[key].append((args, result))
            return result

        setattr(ppo_trainer, name, call)
        return function

    def given(model, queries_, batch_size, pad_token_id, generation_config):
        query_responses = torch.cat([queries, responses], 1)
        logits = ppo_trainer.forward(old_policy(), query_responses, pad).logits[:, queries.shape[1] - 1 : -1]
        return query_responses, logits / (TEMPERATURE + 1e-7)

    def get_reward(model, query_responses, pad_token_id, context_length):
        if model.base_model_prefix == "scores":
            return None, torch.tensor(SCORES), None
        result = real_get_reward(model, query_responses, pad_token_id, context_length)
        seen["values"].append(result[0][:, context_length - 1 : -1, 0])
        return result

    originals = {"batch_generation": ppo_trainer.batch_generation, "get_reward": ppo_trainer.get_reward}
    real_get_reward = ppo_trainer.get_reward
    ppo_trainer.batch_generation, ppo_trainer.get_reward = given, get_reward
    originals |= {"selective_log_softmax": watch("selective_log_softmax", "log_softmax")}
    originals |= {"masked_whiten": watch("masked_whiten", "whiten")}
    try:
        options = {"stop_token": "eos", **settings}
        args = PPOConfig(
            output_dir="/tmp/trl_ppo_golden", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no", num_sample_generations=0, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=4 // micro_batch, num_mini_batches=num_mini_batches,
            local_rollout_forward_batch_size=4, total_episodes=4, num_ppo_epochs=1,
            response_length=4, temperature=TEMPERATURE, kl_coef=BETA, cliprange=EPSILON,
            cliprange_value=CLIPRANGE_VALUE, vf_coef=VF_COEF, lam=case["lam"], logging_steps=10, **options,
        )  # fmt: skip
        scores = torch.nn.Identity()
        scores.base_model_prefix = "scores"
        model, value_model = policy(), critic()
        # Three batches of them: accelerate would end every accumulation early at the end of a loader.
        rows = Dataset.from_dict({"input_ids": 3 * [[i for i in q if i != PAD] for q in QUERIES]})
        modules = torch.nn.ModuleList([model, value_model])
        before = [p.detach().clone() for p in modules.parameters()]
        sgd, steps = torch.optim.SGD(modules.parameters(), lr=1.0), []
        sgd.register_step_post_hook(lambda *args: steps.append(1))
        trainer = ppo_trainer.PPOTrainer(
            args, _tokenizer(PreTrainedTokenizerFast, pad), model, reference(), scores, rows, value_model,
            eval_dataset=rows, optimizers=(sgd, torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)),
        )  # fmt: skip
        trainer.log = lambda metrics: seen["metrics"].update(metrics)
        # The forward of the update runs on these rows in a fresh order; keep theirs.
        ppo_trainer.np.random.permutation = lambda n: list(range(n))
        trainer.train()
        if settings:
            return {"metrics": seen["metrics"], "saved": saved_names(trainer)}
    finally:
        for name, function in originals.items():
            setattr(ppo_trainer, name, function)
    gradients = [(b - p.detach()) for b, p in zip(before, modules.parameters(), strict=True)]
    (advantage_args, whitened), (old, ref, new) = seen["whiten"][-1], (r for _, r in seen["log_softmax"][:3])
    num_policy = len(list(model.parameters()))  # the trunks come first in both models, in one order
    names = ("loss/policy_avg", "loss/value_avg", "policy/clipfrac_avg", "val/clipfrac_avg", "val/ratio")
    return {
        "old_logps": old.tolist(),
        "ref_logps": ref.tolist(),
        "logps": new.detach().tolist(),
        "values": seen["values"][0].tolist(),
        "mask": advantage_args[1].int().tolist(),
        "advantages": advantage_args[0].tolist(),
        "whitened_advantages": whitened.tolist(),
        "metrics": {name: seen["metrics"][name] for name in names},
        "optimizer_steps": len(steps),
        "gradient": {
            "trunk_norms": [
                (a + b).norm().item()
                for (n, _), a, b in zip(model.named_parameters(), gradients, gradients[num_policy:], strict=False)
                if n.startswith("model.")
            ],
            "value_head": gradients[-1].flatten().tolist(),
        },
    }


def saved_names(trainer) -> list[str]:
    """Of every tensor that `save_model` leaves."""
    from safetensors import safe_open

    trainer.save_model(trainer.args.output_dir)
    with safe_open(Path(trainer.args.output_dir, "model.safetensors"), "pt") as file:
        return sorted(file.keys())


def _tokenizer(cls, pad: int = PAD):
    from tokenizers import Tokenizer, models

    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(2, 9)}}
    return cls(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>" if pad == PAD else "<eos>",
        eos_token="<eos>",
        padding_side="left",
    )


if __name__ == "__main__":
    import inspect

    import trl
    from trl.experimental import ppo

    assert trl.__version__ == "1.12.0", trl.__version__
    num_steps = {n: run(CASES["cut"], micro_batch=1, num_mini_batches=n)["optimizer_steps"] for n in (1, 2, 4)}
    evidence = {"optimizer_steps_by_num_mini_batches": num_steps}
    evidence["mask_where_pad_is_eos"] = run(CASES["ended"], pad=EOS)["mask"]
    stopped = run({"lam": 1.0, "responses": STOPPED}, stop_token=None, stop_token_id=STOP, missing_eos_penalty=1.0)
    evidence["mean_score_of_stopped_answers_fined_1_for_not_stopping"] = stopped["metrics"]["objective/scores"]
    evidence["saved_of_the_critic"] = [name for name in stopped["saved"] if name not in policy().state_dict()]
    evidence["arguments_of_train"] = list(inspect.signature(ppo.PPOTrainer.train).parameters)
    lines = [f'"evidence": {json.dumps(evidence)}']
    lines += [f"{json.dumps(name)}: {json.dumps(run(case))}" for name, case in CASES.items()]
    Path(__file__).with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
