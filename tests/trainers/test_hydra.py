"""One base in memory for policy, reference, critic and reward model, each with its own path through it."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from hfcourse.errors import InputError
from hfcourse.models.adapters import active_adapter
from hfcourse.models.reward_model import load_reward_model, score
from hfcourse.trainers.reward_trainer import RewardConfig, RewardTrainer
from tests.trainers.rollouts import PROMPTS, given, history, rollout_of, vowels

LORA = dict(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
TEXTS = ["aeiou xyz", "qqq", "near", "The red fox sleeps", "a", "b", "c", "d"]


def policy_lora():
    return LoraConfig(task_type="CAUSAL_LM", **LORA)


@pytest.fixture(scope="module")
def reward_adapter(tiny_llama_dir, tiny_tokenizer, tmp_path_factory):
    """A reward model trained with LoRA on the policy's base, as its trainer leaves it: an adapter and a head."""
    folder = tmp_path_factory.mktemp("reward-adapter")
    torch.manual_seed(0)
    model = LlamaForSequenceClassification.from_pretrained(tiny_llama_dir, num_labels=1)
    pairs = Dataset.from_list([{"prompt": p, "chosen": " a e", "rejected": " x"} for p in PROMPTS])
    args = RewardConfig(str(folder), max_steps=2, learning_rate=0.1, use_cpu=True, save_strategy="no")
    trainer = RewardTrainer(
        model,
        args,
        train_dataset=pairs,
        processing_class=tiny_tokenizer,
        peft_config=LoraConfig(task_type="SEQ_CLS", **LORA),
    )
    trainer.train()
    trainer.save_model()
    return str(folder), trainer.model


@pytest.fixture
def make_hydra(make_ppo, tiny_llama_dir):
    def make(**overrides):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
        return make_ppo(model=model, peft_config=policy_lora(), **overrides)

    return make


def test_four_roles_on_one_base(make_hydra, reward_adapter, tiny_llama_dir):
    """Every matrix of the base is there once; what each role adds is small."""
    trainer = make_hydra(reward_funcs=reward_adapter[0], value_model="adapter")
    assert trainer.ref_model is None
    sizes = {name: p.numel() for name, p in trainer.model.named_parameters()}
    base = sum(n for name, n in sizes.items() if "lora_" not in name and "value_head" not in name)
    assert (
        base
        == AutoModelForCausalLM.from_pretrained(
            trainer.model.peft_config["default"].base_model_name_or_path
        ).num_parameters()
    )
    adapters = {a: sum(n for name, n in sizes.items() if f".{a}." in name) for a in ("default", "value", "reward_0")}
    assert len(set(adapters.values())) == 1
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all(".default." in name or ".value." in name or "value_head" in name for name in trainable)


def test_each_role_takes_its_own_path(make_hydra, reward_adapter, tiny_llama_dir, tiny_tokenizer):
    """Reference: the base alone, before and after training. Reward: what the reward model itself says. Bit for bit
    but for rounding; and each differs from the others."""
    folder, reward_model = reward_adapter
    trainer = make_hydra(reward_funcs=folder, value_model="adapter", learning_rate=0.05, max_steps=8)
    finished = [True] * 8
    rewards = trainer.reward_funcs[0](PROMPTS, TEXTS, [[trainer.eos_token_ids[0]]] * 8)
    by_itself = score(reward_model, tiny_tokenizer, PROMPTS, TEXTS, finished)
    assert rewards == pytest.approx(by_itself, abs=1e-5)
    assert len(set(rewards)) == 8
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    batch, _ = rollout_of(trainer)
    trainer.train()
    assert trainer.reward_funcs[0](PROMPTS, TEXTS, [[trainer.eos_token_ids[0]]] * 8) == rewards
    trainer.model.train()
    del batch["num_items"]
    stats, ref_logps = trainer._score_rollout(batch)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["attention_to_completion"]], 1)
    with torch.no_grad():
        logits = base(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    logps = logits[:, batch["prompt_ids"].shape[1] - 1 : -1].log_softmax(-1)
    expected = logps.gather(2, batch["completion_ids"][..., None])[..., 0].where(batch["completion_mask"].bool(), 0.0)
    torch.testing.assert_close(ref_logps, expected, atol=2e-5, rtol=1e-5)
    assert (stats["logps"] - ref_logps).abs().max() > 0.01


def test_an_adapter_is_read_alone_with_its_mean(reward_adapter, tiny_tokenizer, tmp_path):
    """Loaded onto its base, it scores as it did in training, mean 0 on the answers it was trained on; without the
    file beside it every reward is off by the mean."""
    folder, trained = reward_adapter
    model = load_reward_model(folder)
    expected = score(trained, tiny_tokenizer, PROMPTS, TEXTS)
    assert score(model, tiny_tokenizer, PROMPTS, TEXTS) == pytest.approx(expected, abs=1e-5)
    answers = [" a e"] * len(PROMPTS) + [" x"] * len(PROMPTS)
    assert sum(score(model, tiny_tokenizer, [*PROMPTS, *PROMPTS], answers)) == pytest.approx(0, abs=1e-4)
    without_mean = tmp_path / "adapter"
    shutil.copytree(folder, without_mean, ignore=shutil.ignore_patterns("reward_mean.json"))
    off = score(load_reward_model(str(without_mean)), tiny_tokenizer, PROMPTS, TEXTS)
    mean = trained.config.reward_mean
    assert off == pytest.approx([reward + mean for reward in expected], abs=1e-5)
    assert abs(mean) > 1e-3


def gradients(trainer, **coefficients):
    for name, value in coefficients.items():
        setattr(trainer.args, name, value)
    batch = trainer._split_into_updates(given(trainer, [[9, 10, 11]] * 8, TEXTS))[0]
    with torch.no_grad():
        head = next(m for n, m in trainer.model.named_modules() if n.endswith("value_head"))
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    trainer._compute_loss(trainer.model, batch).backward()
    return {n: p.grad.abs().sum().item() for n, p in trainer.model.named_parameters() if p.grad is not None}


def test_the_critics_adapter_learns_from_the_value_loss_alone(make_hydra):
    """On the shared trunk the value loss moves the policy's adapter too; with an adapter of its own it does not."""
    shared = gradients(make_hydra(), vf_coef=1.0)
    apart = gradients(make_hydra(value_model="adapter"), vf_coef=1.0)
    policy_only = gradients(make_hydra(value_model="adapter"), vf_coef=0.0)
    name = next(n for n in apart if "lora_B.default" in n)
    assert apart[name] == pytest.approx(policy_only[name], rel=1e-5)
    assert shared[name] != pytest.approx(policy_only[name], rel=1e-2)
    value = name.replace("default", "value")
    assert apart[value] > 1e-6
    assert policy_only[value] == 0


def test_pefts_own_switch_would_stop_the_critic(make_hydra):
    """Broken on purpose: after `disable_adapter` PEFT trains the active adapter alone."""
    trainer = make_hydra(value_model="adapter")
    value = [p for n, p in trainer.model.named_parameters() if ".value." in n]
    with active_adapter(trainer.model, None):
        assert all(p.requires_grad for p in value)
    assert all(p.requires_grad for p in value)
    with trainer.model.disable_adapter():
        pass
    assert not any(p.requires_grad for p in value)


def test_a_value_model_of_its_own_starts_as_the_reward_model(make_ppo, tiny_llama, tmp_path):
    """V(s) is at first the reward of the text so far; its loss leaves the policy alone."""
    torch.manual_seed(1)
    critic = LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config)
    critic.config.architectures = ["LlamaForSequenceClassification"]
    critic.save_pretrained(tmp_path / "critic")
    trainer = make_ppo(value_model=str(tmp_path / "critic"))
    _, rollout = rollout_of(trainer)
    i = rollout["completion_mask"].sum(1).argmax()
    prompt = rollout["prompt_ids"][i][rollout["prompt_mask"][i].bool()]
    said = rollout["completion_ids"][i]
    for t in range(int(rollout["completion_mask"][i].sum())):
        ids = torch.cat([prompt, said[:t]])[None]
        with torch.no_grad():
            hidden = critic.model(ids).last_hidden_state[0, -1]
            expected = critic.score(hidden)[0].item()
        assert rollout["old_values"][i, t].item() == pytest.approx(expected, abs=1e-5)
    before = gradients(make_ppo(value_model=str(tmp_path / "critic")), vf_coef=0.0)
    after = gradients(make_ppo(value_model=str(tmp_path / "critic")), vf_coef=1.0)
    assert after["lm_head.weight"] == pytest.approx(before["lm_head.weight"], rel=1e-5)
    assert after["value_trunk.layers.0.mlp.up_proj.weight"] > 1e-6


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_the_critic_is_saved_beside_and_resumed_bit_for_bit(
    make_ppo, make_hydra, reward_adapter, tiny_llama, tmp_path, kind
):
    settings = dict(max_steps=8, save_strategy="steps", save_steps=4, learning_rate=0.01)
    if kind == "adapter":
        settings |= dict(value_model="adapter", reward_funcs=[reward_adapter[0], vowels])
        make = make_hydra
    else:
        tiny_llama(5).save_pretrained(tmp_path / "critic")
        settings |= dict(value_model=str(tmp_path / "critic"))
        make = make_ppo
    straight = make(output_dir=str(tmp_path / "a"), **settings)
    straight.train()
    resumed = make(output_dir=str(tmp_path / "b"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    for name in ("reward", "kl", "loss/value"):
        assert history(straight, name) == history(resumed, name)
    folder = tmp_path / "a" / "checkpoint-8"
    if kind == "adapter":
        assert not [p for p in folder.iterdir() if p.is_dir()]
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["task_type"] == "CAUSAL_LM"
        loaded = AutoPeftModelForCausalLM.from_pretrained(folder)
    else:
        loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["unexpected_keys"]
    straight.model.eval()
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(loaded.eval()(ids).logits, straight.model(ids).logits)
    other = make_ppo(output_dir=str(tmp_path / "c"), max_steps=8)
    if kind == "model":
        with pytest.raises(InputError, match="another kind of critic"):
            other._load_from_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(value_model="adapter"), "needs a policy with an adapter"),
        (
            dict(value_model="adapter", peft_config=policy_lora(), gradient_checkpointing=True),
            "gradient_checkpointing",
        ),
    ],
)
def test_what_cannot_be_shared_is_said(make_ppo, overrides, message):
    with pytest.raises(InputError, match=message):
        make_ppo(**overrides)


def test_a_reward_adapter_needs_its_own_base(make_ppo, make_hydra, reward_adapter, tiny_llama, tmp_path):
    with pytest.raises(InputError, match="an adapter, which needs a policy with one"):
        make_ppo(reward_funcs=reward_adapter[0])
    tiny_llama(1).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="belongs to"):
        make_ppo(
            model=AutoModelForCausalLM.from_pretrained(tmp_path / "other"),
            peft_config=policy_lora(),
            reward_funcs=reward_adapter[0],
        )


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_no_pass_is_done_twice(make_ppo, peft):
    """A rollout is read once by the policy (log-probs and values together), once by the reference, and once in each
    epoch: with the base's own generation and the reward model's pass, the floor of RLHF, 4 + 3 · epochs."""
    trainer = make_ppo(peft_config=policy_lora() if peft else None, num_iterations=4, max_steps=8)
    trainer._generate = lambda prompts: ([[5]] * 8, [[9, 10, 11, 12, 13, 14]] * 8, TEXTS)
    tokens = {True: 0, False: 0}

    def count(_module, inputs):
        tokens[torch.is_grad_enabled()] += inputs[0].shape[0] * inputs[0].shape[1]

    for model in (trainer.model, trainer.ref_model):
        for name, module in model.named_modules() if model is not None else ():
            if name.endswith("model.layers.0"):
                module.register_forward_pre_hook(count)
    trainer.train()
    trial = 2 * 4 * (1 if peft else 2)  # of each model's head, once (`has_linear_head`)
    assert tokens == {False: 2 * 8 * 7 + trial, True: 4 * 8 * 7}


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_no_tensor_holds_the_rollout_times_the_vocabulary(make_ppo, tiny_llama, peft):
    """8 completions of 6 tokens, 300 words: an update of two rows sees 2 · 6 · 300 logits, and so does the scoring."""
    trainer = make_ppo(peft_config=policy_lora() if peft else None, max_steps=2)
    given_ids = [[9, 10, 11, 12, 13, 14]] * 8
    trainer._generate = lambda prompts: ([[5]] * 8, given_ids, TEXTS)
    with LargestTensor() as largest:
        trainer.train()
    vocabulary = trainer.model.config.vocab_size
    assert largest.numel <= max(2 * 6 * vocabulary, vocabulary * 32)
