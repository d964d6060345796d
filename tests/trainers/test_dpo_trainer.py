"""DPOTrainer: our losses inside TRL's machinery, with TRL's numbers where TRL is right."""

import copy
import math

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM

from hfcourse.errors import InputError
from hfcourse.losses import dpo_loss
from hfcourse.models.token_stats import causal_lm_of
from hfcourse.trainers.dpo_trainer import DPOConfig, DPOTrainer

PAIRS = [
    {"prompt": "Mara", "chosen": " lives in Oakton.", "rejected": " is a door."},
    {"prompt": "The red fox", "chosen": " sleeps.", "rejected": " sleeps near the blue river and the tea."},
    {"prompt": "Two apples", "chosen": " and three make five.", "rejected": " x"},
    {"prompt": "What is the colour?", "chosen": " Blue.", "rejected": " Six, I think."},
]


@pytest.fixture
def make_trainer(tiny_llama, tiny_tokenizer, tmp_path):
    def make(
        rows=PAIRS, trainer_class=DPOTrainer, config_class=DPOConfig, ref_model="copy", peft_config=None, **overrides
    ):
        settings = dict(
            output_dir=str(tmp_path / "dpo"),
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
        model = tiny_llama(0)
        return trainer_class(
            model,
            None if peft_config or ref_model is None else copy.deepcopy(model),
            config_class(**{**settings, **overrides}),
            train_dataset=Dataset.from_list(rows),
            processing_class=copy.deepcopy(tiny_tokenizer),
            peft_config=peft_config,
        )

    return make


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def test_loss_at_step_0_is_ln_2_for_a_model_built_in_memory(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = DPOTrainer(
        tiny_llama(0),
        args=DPOConfig(str(tmp_path), use_cpu=True, report_to="none"),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tiny_tokenizer,
    )
    assert trainer.compute_loss(trainer.model, first_batch(trainer)).item() == pytest.approx(math.log(2), abs=1e-6)


def test_loss_is_the_pure_function_on_log_probs_summed_by_hand(make_trainer, tiny_llama):
    """Each answer alone, token by token: log π(y|x) = Σ_t log π(y_t | x, y_<t), EOS included."""
    trainer = make_trainer(beta=0.3, label_smoothing=0.1)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(1.2)

    def logp(model, prompt, answer):
        tokenizer = trainer.processing_class
        prefix = tokenizer(prompt)["input_ids"]
        ids = tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"]
        log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        return sum(log_probs[t - 1, ids[t]] for t in range(len(prefix), len(ids)))

    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    logps = [
        torch.stack([logp(model, row["prompt"], row[side]) for row in PAIRS])
        for model in (trainer.model, trainer.ref_model)
        for side in ("chosen", "rejected")
    ]
    expected, _, _ = dpo_loss(*logps, beta=0.3, label_smoothing=0.1)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected.mean(), atol=1e-5, rtol=1e-5)
    assert abs(expected.mean() - dpo_loss(*logps, beta=0.3)[0].mean()) > 1e-3


def test_an_evaluation_counts_each_pair_once(make_trainer):
    """3 pairs in batches of 2: each figure is the mean of the three evaluated alone. A mean of batch means is not."""

    def figures(batch_size, rows):
        trainer = make_trainer(per_device_eval_batch_size=batch_size)
        with torch.no_grad():
            trainer.model.lm_head.weight.mul_(1.2)
        measured = trainer.evaluate(trainer.train_dataset.select(rows))
        return {n: x for n, x in measured.items() if n.startswith(("eval_loss", "eval_rewards/", "eval_logps/"))}

    found, alone = figures(2, range(3)), [figures(1, [i]) for i in range(3)]
    assert len(found) == 7
    for name, value in found.items():
        assert value == pytest.approx(sum(one[name] for one in alone) / 3, abs=1e-5), name
    first, second = figures(2, range(2)), alone[2]
    assert (
        abs((first["eval_rewards/margins"] + second["eval_rewards/margins"]) / 2 - found["eval_rewards/margins"])
        > 1e-2
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge", "robust"])
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_agrees_with_trl(make_trainer, loss_type, peft):
    """Losses, gradient norms and every metric of three steps equal TRL's to float32 rounding."""
    settings = dict(loss_type=loss_type, label_smoothing=0.1 if loss_type == "robust" else 0.0, beta=0.2)
    if peft:
        settings["peft_config"] = LoraConfig(r=2, task_type="CAUSAL_LM")
    ours = make_trainer(**settings)
    theirs = make_trainer(trainer_class=trl.DPOTrainer, config_class=trl.DPOConfig, **settings)
    ours.train()
    theirs.train()
    for a, b in zip(ours.state.log_history[:3], theirs.state.log_history[:3], strict=True):
        assert set(a) == set(b)
        names = set(a) - {"epoch", "step", "learning_rate"}
        assert {n: a[n] for n in names} == pytest.approx({n: b[n] for n in names}, abs=1e-5, rel=1e-4)


LONG_PROMPTS = [
    {**row, "prompt": "Mara lives in Oakton and likes tea. " * (i + 1) + row["prompt"]} for i, row in enumerate(PAIRS)
]


@pytest.mark.parametrize("precompute", [False, True], ids=["online", "precomputed"])
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_the_prompt_is_computed_once_and_nothing_else_changes(make_trainer, precompute, peft):
    """Three steps with and without `shared_prefix`: every metric equal to rounding, fewer tokens through the trunk."""
    settings = dict(shared_prefix=True, ref_model=None, precompute_ref_log_probs=precompute)
    if peft:
        settings["peft_config"] = LoraConfig(r=2, task_type="CAUSAL_LM")
    elif not precompute:
        settings["ref_model"] = "copy"
    histories, tokens = [], []
    for shared_prefix in (True, False):
        trainer = make_trainer(LONG_PROMPTS, **{**settings, "shared_prefix": shared_prefix})
        seen = []
        trunk = causal_lm_of(trainer.model).base_model
        trunk.register_forward_pre_hook(
            lambda _m, _a, kw, seen=seen: seen.append(kw["input_ids"].shape), with_kwargs=True
        )
        trainer.train()
        histories.append(trainer.state.log_history[:3])
        tokens.append([shape for shape in seen if shape != (1, 4)])  # the trial of its head
    for a, b in zip(*histories, strict=True):
        a.pop("epoch"), b.pop("epoch")
        assert a == pytest.approx(b, abs=2e-4, rel=2e-4)
    assert len(tokens[0]) == len(tokens[1])
    assert {shape[0] for shape in tokens[0]} == {4}
    assert {shape[0] for shape in tokens[1]} == {8}


def test_a_model_that_cannot_share_says_so_once(tiny_tokenizer, tmp_path, caplog):
    """BLOOM's ALiBi counts keys: trained all the same, with one warning if sharing was asked for, else with none."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=300, hidden_size=32, n_layer=1, n_head=4, initializer_range=0.2)
    for asked, warnings in ((True, 1), (None, 0)):
        caplog.clear()
        with caplog.at_level("WARNING", logger="hfcourse.trainers.dpo_trainer"):
            trainer = DPOTrainer(
                BloomForCausalLM(BloomConfig(**sizes)),
                args=DPOConfig(str(tmp_path), max_steps=2, shared_prefix=asked, report_to="none", disable_tqdm=True),
                train_dataset=Dataset.from_list(LONG_PROMPTS),
                processing_class=copy.deepcopy(tiny_tokenizer),
            )
            trainer.train()
        assert caplog.text.count("shared_prefix=True") == warnings
        assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_a_reference_that_cannot_share_is_not_folded_either(tiny_llama, tiny_tokenizer, tmp_path):
    """A Llama beside a BLOOM, whose ALiBi wants the mask that is two-dimensional: the plain batch's loss, no crash."""
    torch.manual_seed(0)
    policy = tiny_llama()
    sizes = dict(vocab_size=policy.config.vocab_size, hidden_size=32, n_layer=1, n_head=4, initializer_range=0.5)
    bloom, losses = BloomForCausalLM(BloomConfig(**sizes)), []
    for shared in (None, False):
        trainer = DPOTrainer(
            copy.deepcopy(policy),
            copy.deepcopy(bloom),
            args=DPOConfig(str(tmp_path), use_cpu=True, shared_prefix=shared, report_to="none", disable_tqdm=True),
            train_dataset=Dataset.from_list(LONG_PROMPTS),
            processing_class=copy.deepcopy(tiny_tokenizer),
        )
        losses.append(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust"])
def test_accumulation_of_4x1_equals_1x4(make_trainer, loss_type):
    whole = make_trainer(loss_type=loss_type)
    parts = make_trainer(loss_type=loss_type, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    for (name, p), q in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_label_smoothing_counts(make_trainer, loss_type):
    """TRL 1.16 ignores it without a word: its losses with 0.4 equal its losses with 0."""
    losses = {}
    for name, library in {"ours": (DPOTrainer, DPOConfig), "trl": (trl.DPOTrainer, trl.DPOConfig)}.items():
        for smoothing in (0.0, 0.4):
            options = dict(trainer_class=library[0], config_class=library[1], loss_type=loss_type)
            trainer = make_trainer(**options, label_smoothing=smoothing)
            trainer.train()
            losses[name, smoothing] = [log["loss"] for log in trainer.state.log_history[:3]]
    assert losses["trl", 0.0] == losses["trl", 0.4]
    assert losses["ours", 0.0] == pytest.approx(losses["trl", 0.0], rel=1e-5)
    assert abs(losses["ours", 0.4][2] - losses["ours", 0.0][2]) > 1e-3


def test_precomputed_reference_gives_the_same_training(make_trainer):
    online = make_trainer()
    online.train()
    precomputed = make_trainer(precompute_ref_log_probs=True, ref_model=None)
    assert precomputed.ref_model is None
    precomputed.train()
    losses = [[log["loss"] for log in t.state.log_history[:3]] for t in (online, precomputed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


PARENTS = [
    dict(loss_type="exo_pair", label_smoothing=0.1),
    *(dict(loss_type=name) for name in ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero")),
    *(dict(loss_type=name) for name in ("apo_down", "discopop", "sft", "sigmoid_norm")),
    dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5]),
    dict(f_divergence_type="js_divergence"),
    dict(ld_alpha=0.5),
    dict(use_weighting=True),
]


@pytest.mark.parametrize("settings", PARENTS, ids=lambda s: "-".join(map(str, s.values())))
def test_what_is_not_ours_stays_the_parents(make_trainer, settings):
    """The other losses, mixtures, f-divergences, length desensitization and WPO give TRL's loss and metrics."""
    ours = make_trainer(**settings)
    theirs = make_trainer(trainer_class=trl.DPOTrainer, config_class=trl.DPOConfig, **settings)
    batch = first_batch(ours)
    with torch.no_grad():
        for trainer in (ours, theirs):
            trainer.model.lm_head.weight.mul_(1.2)
    torch.testing.assert_close(ours.compute_loss(ours.model, batch), theirs.compute_loss(theirs.model, batch))
    assert ours._metrics["train"] == theirs._metrics["train"]


@pytest.mark.parametrize("precompute", [False, True], ids=["online", "precomputed"])
def test_a_trained_adapter_is_its_own_reference(make_trainer, tiny_llama, tiny_tokenizer, tmp_path, precompute):
    """A PeftModel that has learnt already: the reference is a copy of its adapter, not the model without it."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(0), LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False))
    args = DPOConfig(str(tmp_path), learning_rate=1e-2, max_steps=2, report_to="none", disable_tqdm=True)
    args.precompute_ref_log_probs = precompute
    data = Dataset.from_list(LONG_PROMPTS)
    trainer = DPOTrainer(model, args=args, train_dataset=data, processing_class=copy.deepcopy(tiny_tokenizer))
    assert trainer.compute_loss(trainer.model, first_batch(trainer)).item() == pytest.approx(math.log(2), abs=1e-6)
    batch = first_batch(trainer)
    before = trainer._ref_logps(batch)
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer._ref_logps(batch), strict=True))
    assert trainer.compute_loss(trainer.model, batch).item() != pytest.approx(math.log(2), abs=1e-3)


def test_pairs_without_room_for_an_answer_are_left_out_and_counted(make_trainer, caplog):
    """A prompt of max_length tokens or more would leave both answers without a token: a pair that teaches nothing."""
    rows = [*PAIRS, {**PAIRS[0], "prompt": "Mara lives in Oakton. " * 20}]
    with caplog.at_level("WARNING", logger="hfcourse.trainers.dpo_trainer"):
        trainer = make_trainer(rows, max_length=32)
    assert len(trainer.train_dataset) == 4
    assert "1 of 5 train pairs are left out" in caplog.text
    with pytest.raises(InputError, match="max_length=32: every prompt of the train set is longer"):
        make_trainer(rows[4:], max_length=32)


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
        ([{"prompt": "a", "rejected": "b"}], "no column 'chosen'"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "row 0: 'chosen' and 'rejected' are the same"),
    ],
)
def test_bad_pairs_are_an_error_before_the_first_step(make_trainer, rows, message):
    with pytest.raises(InputError, match=message):
        make_trainer(rows)
