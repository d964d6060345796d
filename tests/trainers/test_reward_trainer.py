"""RewardTrainer: its loss is Bradley-Terry's, its rewards do not depend on padding, bad pairs stop it."""

import copy

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from hfcourse.errors import InputError
from hfcourse.losses import bradley_terry_loss
from hfcourse.models.reward_model import load_reward_model, merge_adapter, render, score, spare_pad_token
from hfcourse.models.token_stats import causal_lm_of
from hfcourse.trainers.reward_trainer import RewardConfig, RewardTrainer, bootstrap_weights

PAIRS = [
    {"prompt": "Mara", "chosen": " lives in Oakton.", "rejected": " is a door."},
    {"prompt": "The red fox", "chosen": " sleeps.", "rejected": " sleeps near the blue river and the tea."},
    {"prompt": "Two apples", "chosen": " and three make five.", "rejected": " x"},
    {"prompt": "What?", "chosen": " Five.", "rejected": " Six, I think."},
]


@pytest.fixture
def make_model(tiny_llama):
    def make(seed=0):
        torch.manual_seed(seed)
        return LlamaForSequenceClassification(tiny_llama(seed, num_labels=1).config)

    return make


@pytest.fixture
def make_trainer(make_model, tiny_tokenizer, tmp_path):
    def make(
        rows=PAIRS,
        trainer_class=RewardTrainer,
        config_class=RewardConfig,
        tokenizer=None,
        peft_config=None,
        model=None,
        **overrides,
    ):
        settings = dict(
            output_dir=str(tmp_path / "reward"),
            per_device_train_batch_size=4,
            max_steps=3,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            report_to="none",
        )
        return trainer_class(
            model or make_model(),
            config_class(**{**settings, **overrides}),
            train_dataset=Dataset.from_list(rows),
            processing_class=copy.deepcopy(tokenizer or tiny_tokenizer),
            peft_config=peft_config,
        )

    return make


def test_loss_is_the_pure_function_on_the_batch(make_trainer):
    rows = [{**row, "margin": 0.5 * i} for i, row in enumerate(PAIRS)]
    trainer = make_trainer(rows, center_rewards_coefficient=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    rewards = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    expected = bradley_terry_loss(*rewards.chunk(2), batch["margin"], 0.1).mean()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)
    assert trainer.compute_loss(trainer.model, {**batch, "margin": -batch["margin"]}) != expected


def test_an_encoder_reads_the_text_as_it_does(make_trainer, tiny_tokenizer):
    """BERT's reward is its pooler's; the three steps are TRL's."""
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_labels=1)
    shape |= dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=tiny_tokenizer.pad_token_id)
    histories = []
    for library in (dict(), dict(trainer_class=trl.RewardTrainer, config_class=trl.RewardConfig)):
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(vocab_size=len(tiny_tokenizer), **shape))
        trainer = make_trainer(model=model, learning_rate=1e-2, **library)
        trainer.train()
        histories.append([log["loss"] for log in trainer.state.log_history[:3]])
    assert histories[0] == pytest.approx(histories[1], abs=1e-6)
    assert histories[0][2] < histories[0][0]


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_the_prompt_is_computed_once_and_nothing_else_changes(make_trainer, peft):
    rows = [{**row, "prompt": "Mara lives in Oakton and likes tea. " * (i + 1)} for i, row in enumerate(PAIRS)]
    settings = dict(peft_config=LoraConfig(r=2, task_type="SEQ_CLS", modules_to_save=["score"])) if peft else {}
    histories, tokens = [], []
    for shared_prefix in (True, False):
        trainer = make_trainer(rows, shared_prefix=shared_prefix, **settings)
        trunk, seen = causal_lm_of(trainer.model).base_model, []
        trunk.register_forward_pre_hook(
            lambda _m, _a, kw, seen=seen: seen.append(len(kw["input_ids"])), with_kwargs=True
        )
        trainer.train()
        histories.append([{**log, "epoch": 0} for log in trainer.state.log_history[:3]])
        tokens.append(set(seen))
    for a, b in zip(*histories, strict=True):
        assert a == pytest.approx(b, abs=1e-5, rel=1e-4)
    assert tokens == [{4}, {8}]


def test_accuracy_counts_every_pair_once(make_trainer, tiny_tokenizer):
    """Three pairs in batches of two: a mean of the batches' means, ½(½(a+b) + c), would count the last pair twice."""
    trainer = make_trainer(PAIRS[:3], per_device_eval_batch_size=2)
    prompts = [pair["prompt"] for pair in PAIRS[:3]]
    chosen, rejected = (
        torch.tensor(score(trainer.model, tiny_tokenizer, prompts, [pair[side] for pair in PAIRS[:3]]))
        for side in ("chosen", "rejected")
    )
    metrics, margins = trainer.evaluate(trainer.train_dataset), chosen - rejected
    assert metrics["eval_accuracy"] == pytest.approx((margins > 0).float().mean().item())
    assert metrics["eval_margin"] == pytest.approx(margins.mean().item(), abs=1e-6)
    assert metrics["eval_margin"] != pytest.approx((margins[:2].mean() / 2 + margins[2] / 2).item(), abs=1e-6)


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_row_scores_the_same_alone_and_in_a_batch(make_trainer, tiny_tokenizer, pad_is_eos):
    """Also where the tokenizer pads with EOS: then transformers would read the reward one token too early."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    trainer = make_trainer(tokenizer=tokenizer, num_centering_samples=0)
    trainer.train()
    prompts, answers = [row["prompt"] for row in PAIRS], [row["chosen"] for row in PAIRS]
    together = score(trainer.model, trainer.processing_class, prompts, answers)
    for i in range(len(PAIRS)):
        ids = tiny_tokenizer(prompts[i] + answers[i] + tiny_tokenizer.eos_token, return_tensors="pt")["input_ids"]
        hidden = trainer.model.model(input_ids=ids).last_hidden_state[0, -1]
        assert together[i] == pytest.approx((trainer.model.score.weight @ hidden).item(), abs=1e-5)
        assert together[i] == pytest.approx(
            score(trainer.model, tokenizer, prompts[i : i + 1], answers[i : i + 1])[0], abs=1e-5
        )
    assert trainer.processing_class.pad_token != trainer.processing_class.eos_token


def test_an_unfinished_answer_is_scored_without_eos(tiny_tokenizer):
    assert render(tiny_tokenizer, "a", " b", True) == " b".join(["a", tiny_tokenizer.eos_token])
    assert render(tiny_tokenizer, "a", " b", False) == "a b"
    chat = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    assert render(tiny_tokenizer, *chat, True).endswith("assistant\nb<|im_end|>")
    assert render(tiny_tokenizer, *chat, False).endswith("assistant\nb")


def test_spare_pad_token_is_never_eos(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    assert spare_pad_token(tokenizer) == "<|pad|>"
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.bos_token = tokenizer.eos_token
    assert spare_pad_token(tokenizer) == "<|pad|>"


def test_a_tokenizer_with_nothing_but_eos_is_refused():
    bpe = Tokenizer(models.BPE({"a": 0, "<eos>": 1}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")
    with pytest.raises(InputError, match="add one"):
        spare_pad_token(tokenizer)
    tokenizer.unk_token = "a"
    assert spare_pad_token(tokenizer) == "a"


def test_saved_model_loads_and_scores_the_same(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    args = trainer.processing_class, ["Mara"], [" lives."]
    assert score(loaded, *args) == score(trainer.model, *args)


def test_resume_equals_no_kill(make_trainer, tmp_path):
    settings = dict(max_steps=4, save_strategy="steps", save_steps=2)
    straight = make_trainer(output_dir=str(tmp_path / "a"), **settings)
    straight.train()
    resumed = make_trainer(output_dir=str(tmp_path / "b"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([{"prompt": "a", "chosen": "b"}], "no column 'rejected'"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "row 0: 'chosen' and 'rejected' are the same"),
        ([{"prompt": "a", "chosen": "b", "rejected": ""}], "row 0: 'rejected' is empty"),
    ],
)
def test_bad_pairs_are_an_error_before_the_first_step(make_trainer, rows, message):
    with pytest.raises(InputError, match=message):
        make_trainer(rows)


def test_pairs_beyond_max_length_are_left_out_not_cut(make_trainer):
    assert len(make_trainer(max_length=20).train_dataset) < len(PAIRS)
    with pytest.raises(InputError, match="every pair"):
        make_trainer(max_length=2)


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_a_trained_model_scores_alike_padded_anyhow(make_trainer, tiny_tokenizer, tmp_path, chat, peft):
    """Alone, in a batch, with a tokenizer that pads left or right or with EOS, and by transformers' own forward on a
    batch padded on the left or right: the reward is the same, saved and loaded too."""

    def side(text, role="assistant"):
        return [{"role": role, "content": text.strip()}] if chat else text

    rows = [
        {"prompt": side(r["prompt"], "user"), "chosen": side(r["chosen"]), "rejected": side(r["rejected"])}
        for r in PAIRS
    ]
    lora = dict(peft_config=LoraConfig(r=2, task_type="SEQ_CLS", modules_to_save=["score"])) if peft else {}
    trainer = make_trainer(rows, **lora)
    trainer.train()
    trainer.args.output_dir = str(tmp_path)
    trainer.save_model(str(tmp_path))
    merge_adapter(trainer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    prompts, answers = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    alone = [score(model, trainer.processing_class, [p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert len(set(alone)) == 4
    for padding_side in ("left", "right"):
        for pad_token in (tiny_tokenizer.pad_token, tiny_tokenizer.eos_token):
            tokenizer = copy.deepcopy(tiny_tokenizer)
            tokenizer.padding_side, tokenizer.pad_token = padding_side, pad_token
            assert score(model, tokenizer, prompts, answers) == pytest.approx(alone, abs=1e-5)
        tokenizer = copy.deepcopy(trainer.processing_class)
        tokenizer.padding_side = padding_side
        texts = [render(tokenizer, p, a, True) for p, a in zip(prompts, answers, strict=True)]
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        rewards = model(**batch.data).logits[:, 0] - model.config.reward_mean
        assert rewards.tolist() == pytest.approx(alone, abs=1e-5)


def test_the_mean_over_the_training_answers_is_saved_with_the_model(make_trainer, tmp_path):
    trainer = make_trainer(center_rewards_coefficient=0.0)
    with torch.no_grad():
        trainer.model.model.norm.weight.mul_(3)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    prompts = [row["prompt"] for row in PAIRS]
    rewards = [
        score(model, trainer.processing_class, prompts, [row[s] for row in PAIRS]) for s in ("chosen", "rejected")
    ]
    assert sum(map(sum, rewards)) / 8 == pytest.approx(0, abs=1e-5)
    assert abs(model.config.reward_mean) > 0.1
    unmeasured = make_trainer(num_centering_samples=0)
    unmeasured.train()
    assert not hasattr(unmeasured.model.config, "reward_mean")


def test_an_ensemble_of_heads_has_a_bootstrap_sample_each(tiny_llama, tiny_tokenizer, tmp_path):
    """The loss is the mean over heads and pairs of Poisson(1) weights times Bradley-Terry's; in evaluation without."""
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(0, num_labels=3).config)
    args = RewardConfig(str(tmp_path), per_device_train_batch_size=4, max_steps=3, logging_steps=1, disable_tqdm=True)
    data = Dataset.from_list(PAIRS)
    trainer = RewardTrainer(model, args, train_dataset=data, processing_class=copy.deepcopy(tiny_tokenizer))
    batch = next(iter(trainer.get_train_dataloader()))
    rewards = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = bradley_terry_loss(*rewards.chunk(2))
    weights = bootstrap_weights(batch["input_ids"], batch["attention_mask"], 3)
    trainer.model.train()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), (losses * weights).mean())
    trainer.model.eval()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), losses.mean())
    trainer.train()
    assert trainer.state.log_history[0]["margin_std"] > 0
    trainer.save_model(str(tmp_path / "saved"))
    assert load_reward_model(str(tmp_path / "saved")).config.num_labels == 3


def test_bootstrap_weights_are_poisson_and_follow_the_pair():
    ids = torch.arange(4, 4 + 2 * 4000).view(-1, 1).repeat(1, 2)
    mask = torch.ones_like(ids)
    weights = bootstrap_weights(ids, mask, 2).double()
    assert weights.mean().item() == pytest.approx(1, abs=0.05)
    assert weights.var(0).tolist() == pytest.approx([1, 1], abs=0.1)
    padded = torch.nn.functional.pad(ids, (0, 3), value=7), torch.nn.functional.pad(mask, (0, 3))
    assert torch.equal(bootstrap_weights(*padded, 2).double(), weights)
    assert torch.corrcoef(weights.T)[0, 1].abs() < 0.06
