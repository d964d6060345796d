"""What TRL does wrong, each with its evidence, beside what we do; hfcourse/trainers/TRL.md lists them."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from transformers import LlamaForSequenceClassification

import hfcourse.trainers
from hfcourse.trainers.dpo_trainer import DPOConfig, DPOTrainer
from hfcourse.trainers.reinforce_trainer import REINFORCEConfig, REINFORCETrainer
from hfcourse.trainers.reward_trainer import RewardConfig, RewardTrainer
from tests.trainers.golden import trl_ppo

ROOT = Path(__file__).parents[2]
PAGE = Path(hfcourse.trainers.__file__).parent / "TRL.md"
GOLDEN = json.loads(Path(trl_ppo.__file__).with_suffix(".json").read_text(encoding="utf-8"))
QUIET = dict(use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True)
PAIR = {"prompt": "Mara", "chosen": " lives in Oakton.", "rejected": " is a door."}


def test_every_difference_names_evidence_that_exists():
    evidence = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(evidence) >= 10
    for path, name in evidence:
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), name


def test_rloo_forgets_position_ids(tiny_gpt2, tiny_tokenizer, tmp_path):
    """A prompt padded on the left, before a model with absolute positions: TRL's log-probs move, ours do not."""
    model = tiny_gpt2(0)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    rows = Dataset.from_dict({"prompt": ["Mara", "What is the colour?"]})
    options = dict(output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, **QUIET)
    options["max_completion_length"] = 8
    theirs = trl.RLOOTrainer(
        str(tmp_path / "model"),
        lambda **_: [0.0, 0.0],
        trl.RLOOConfig(**options),
        rows,
        processing_class=tiny_tokenizer,
    )
    ours = REINFORCETrainer(
        model, lambda **_: [0.0, 0.0], REINFORCEConfig(**options), rows, processing_class=tiny_tokenizer
    )
    completion = torch.tensor([[9, 10, 11]])
    logps = {}
    for name, prompt, mask in (("alone", [5], [1]), ("padded", [0, 0, 0, 5], [0, 0, 0, 1])):
        prompt, mask, ones = torch.tensor([prompt]), torch.tensor([mask]), torch.ones_like(completion)
        ids, attention = torch.cat([prompt, completion], 1), torch.cat([mask, ones], 1)
        rollout = dict(prompt_ids=prompt, prompt_mask=mask, completion_ids=completion, attention_to_completion=ones)
        with torch.no_grad():
            logps["trl", name] = theirs._get_per_token_logps_and_entropies(theirs.model.eval(), ids, attention, 3)[0]
            logps["ours", name] = ours._forward(ours.model.eval(), rollout)["logps"]
    torch.testing.assert_close(logps["ours", "padded"], logps["ours", "alone"], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logps["trl", "alone"], logps["ours", "alone"], atol=2e-5, rtol=1e-5)
    assert (logps["trl", "padded"] - logps["trl", "alone"]).abs().max() > 0.1


@pytest.mark.parametrize("trainer_class", [trl.RewardTrainer, RewardTrainer])
def test_a_reward_is_read_before_eos_where_eos_pads(trainer_class, tiny_llama, tiny_tokenizer, tmp_path):
    """The tokenizer pads with EOS: transformers takes the answer's own EOS for padding. TRL trains on it."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config)
    config = RewardConfig if trainer_class is RewardTrainer else trl.RewardConfig
    args = config(str(tmp_path), **QUIET)
    trainer = trainer_class(model, args, train_dataset=Dataset.from_list([PAIR]), processing_class=tokenizer)
    ids = tokenizer("Mara lives.", return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], 1)
    with torch.no_grad():
        read = trainer.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0]
        of_each_token = trainer.model.score(trainer.model.model(input_ids=ids).last_hidden_state)[0, :, 0]
    read_at = (of_each_token - read).abs().argmin().item() - ids.shape[1]
    assert read_at == (-1 if trainer_class is RewardTrainer else -2)


def test_a_reference_in_memory(tiny_llama, tiny_tokenizer, tmp_path):
    """Without `ref_model` TRL loads the reference by the model's name, which a model built in memory has not."""
    rows = Dataset.from_list([PAIR])
    with pytest.raises(Exception, match=r"[Rr]epo"):
        trl.DPOTrainer(
            tiny_llama(0),
            args=trl.DPOConfig(str(tmp_path), **QUIET),
            train_dataset=rows,
            processing_class=tiny_tokenizer,
        )
    ours = DPOTrainer(
        tiny_llama(0), args=DPOConfig(str(tmp_path), **QUIET), train_dataset=rows, processing_class=tiny_tokenizer
    )
    for p, q in zip(ours.model.parameters(), ours.ref_model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("library", [(trl.DPOTrainer, trl.DPOConfig), (DPOTrainer, DPOConfig)], ids=["trl", "ours"])
def test_text_always_ends_with_eos(library, tiny_llama, tiny_tokenizer, tmp_path):
    """An answer that was cut before its EOS gets one all the same, in TRL and so in ours; as messages it does not."""
    trainer_class, config = library
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

    def last_token(rows):
        trainer = trainer_class(
            tiny_llama(0),
            tiny_llama(0),
            config(str(tmp_path), **QUIET),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        return trainer.train_dataset[0]["chosen_ids"][-1]

    messages = {
        name: [{"role": "user" if name == "prompt" else "assistant", "content": text}] for name, text in PAIR.items()
    }
    assert last_token(Dataset.from_list([PAIR])) == tokenizer.eos_token_id
    assert last_token(Dataset.from_list([messages])) != tokenizer.eos_token_id


def test_trl_ppo_mini_batches_do_nothing():
    """Four rows, micro-batches of one, accumulation 4, one epoch: 1, 2 and 4 mini-batches all make one step."""
    assert GOLDEN["evidence"]["optimizer_steps_by_num_mini_batches"] == {"1": 1, "2": 1, "4": 1}


def test_trl_ppo_masks_out_eos_where_eos_pads():
    """Of [EOS], [6, EOS], [3, 3, 5, EOS], [8, 7, 6, 5] the EOS that was chosen does not count."""
    mask = torch.tensor(GOLDEN["ended"]["mask"])
    lost = mask - torch.tensor(GOLDEN["evidence"]["mask_where_pad_is_eos"])
    assert mask.sum(1).tolist() == [1, 2, 4, 4]
    assert lost.sum(1).tolist() == [1, 1, 1, 0]


def test_trl_ppo_metrics_count_padding():
    """Its `val/ratio` is the mean over every slot of the rectangle; a padded slot has a ratio of 1."""
    case = GOLDEN["ended"]
    mask = torch.tensor(case["mask"]).bool()
    ratios = (torch.tensor(case["logps"]) - torch.tensor(case["old_logps"])).exp()
    reported = case["metrics"]["val/ratio"]
    assert reported == pytest.approx(ratios.where(mask, 1.0).mean().item(), rel=1e-5)
    assert abs(reported - ratios[mask].mean().item()) > 0.005
