"""What TRL does wrong, each with its evidence, beside what we do; hfcourse/trainers/TRL.md lists them."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from transformers import LlamaForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

import hfcourse.trainers
from hfcourse.errors import InputError
from hfcourse.trainers.dpo_trainer import DPOConfig, DPOTrainer
from hfcourse.trainers.reinforce_trainer import REINFORCEConfig, REINFORCETrainer
from hfcourse.trainers.reward_trainer import RewardConfig, RewardTrainer
from hfcourse.trainers.sft_trainer import SFTConfig, SFTTrainer
from tests.trainers.golden import trl_ppo
from tests.trainers.trl_agreement import CELLS

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


def test_the_page_names_the_test_of_each_cell():
    rows = {}
    for cell in CELLS:
        rows.setdefault("-".join(filter(None, cell[:-1])), []).append(f"`[{cell}]`")
    table = "\n".join(f"| {name} | {' | '.join(2 * ids)} |" for name, ids in rows.items())
    assert table in PAGE.read_text(encoding="utf-8")


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


@pytest.fixture
def rloo(tiny_tokenizer, tmp_path):
    """Factory: TRL's trainer (or ours) of a model that is saved first, for TRL loads its reference by name."""

    def make(model, library="trl", rows=8, reward=lambda **_: [0.0] * 4, **overrides):
        model.save_pretrained(tmp_path / "model")
        tiny_tokenizer.save_pretrained(tmp_path / "model")
        trainer_class, config = (
            (trl.RLOOTrainer, trl.RLOOConfig) if library == "trl" else (REINFORCETrainer, REINFORCEConfig)
        )
        settings = dict(output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, num_generations=2)
        settings |= dict(max_completion_length=6, save_strategy="no", **QUIET)
        if library != "trl":
            settings["baseline"] = "leave_one_out"
        args = config(**{**settings, **overrides})
        prompts = Dataset.from_dict({"prompt": [f"Mara {i}" for i in range(rows)]})
        return trainer_class(str(tmp_path / "model"), reward, args, prompts, processing_class=tiny_tokenizer)

    return make


@pytest.mark.parametrize("library", ["trl", "ours"])
def test_rloo_leaves_dropout_on(rloo, tiny_gpt2, library):
    """The rollout's log-probs and the loss's come from two draws of GPT-2's dropout: the first ratio is not 1."""
    trainer = rloo(tiny_gpt2(0), library)
    trainer.model.train()
    rollout = trainer._generate_and_score_completions([{"prompt": "Mara"}] * 4)
    if library == "ours":
        logps, old = trainer._forward(trainer.model, rollout)["logps"], rollout["old_per_token_logps"]
        torch.testing.assert_close(logps.detach(), old, atol=2e-5, rtol=0)
        return
    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], 1)
    mask = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], 1)
    length = rollout["completion_ids"].shape[1]
    logps = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length)[0]
    ratios = ((logps * rollout["completion_mask"]).sum(1) - rollout["old_logps"]).exp()
    assert (ratios - 1).abs().max() > 0.05


def test_rloo_scores_another_distribution_than_it_samples(rloo, tiny_llama):
    """With top_k=1 every token is certain, of log-prob 0; TRL's log-probs are those of all tokens. We refuse it."""
    trainer = rloo(tiny_llama(0), top_k=1)
    old_logps = trainer._generate_and_score_completions([{"prompt": "Mara"}] * 4)["old_logps"]
    assert old_logps.max() < -1
    with pytest.raises(InputError, match="top_k: sampling may only be changed by temperature"):
        rloo(tiny_llama(0), "ours", top_k=1)


@pytest.mark.parametrize("library", ["trl", "ours"])
def test_rloo_forgets_the_kl_of_a_cut_answer(rloo, tiny_llama, library):
    """Rewards are 0 and β is 1: the return of an answer is minus its KL, and its sibling is measured by it. With
    `mask_truncated_completions` TRL takes the KL of an answer that was cut for 0."""
    trainer = rloo(tiny_llama(0), library, beta=1.0, mask_truncated_completions=True)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(1.5)
    trainer.model.train()
    eos = trainer.processing_class.eos_token_id
    trainer._generate = lambda prompts: ([[5]] * 4, [[9, eos], [9, 10, 11], [12, eos], [13, 14]], ["", "", "", ""])
    kls = {}
    for name, model in (("policy", trainer.model), ("reference", tiny_llama(0))):
        rows = [[5, 9, eos], [5, 9, 10, 11], [5, 12, eos], [5, 13, 14]]
        logits = [model(torch.tensor([row])).logits[0, :-1].log_softmax(-1) for row in rows]
        kls[name] = [x.gather(1, torch.tensor(row[1:])[:, None]).sum() for x, row in zip(logits, rows, strict=True)]
    kl = (torch.stack(kls["policy"]) - torch.stack(kls["reference"])).detach()
    advantages = trainer._generate_and_score_completions([{"prompt": "a"}] * 4)["advantages"].view(4, -1)[:, 0]
    of_cut_answers = kl[[1, 3]] if library == "ours" else 0.0
    assert kl[[1, 3]].abs().min() > 0.1
    torch.testing.assert_close(advantages[[0, 2]], of_cut_answers - kl[[0, 2]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("library", ["trl", "ours"])
def test_rloo_resumes_with_other_prompts(rloo, tiny_llama, tmp_path, library):
    """Two steps an epoch, killed after three: TRL shuffles the second epoch anew, as if it were the first."""
    asked = {"straight": [], "resumed": []}
    for name in asked:

        def reward(prompts, name=name, **columns):
            asked[name].append(prompts)
            return [0.0] * len(prompts)

        settings = dict(rows=4, reward=reward, max_steps=4, save_strategy="steps", save_steps=3)
        trainer = rloo(tiny_llama(0), library, **settings, output_dir=str(tmp_path / "run"))
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3") if name == "resumed" else None)
    assert len(asked["straight"]) == 4
    assert (asked["resumed"][-1] == asked["straight"][3]) == (library == "ours")


@pytest.mark.parametrize("trainer_class", [trl.RewardTrainer, RewardTrainer])
def test_a_reward_difference_is_rounded_to_bfloat16(trainer_class, tiny_llama, tiny_tokenizer, tmp_path):
    """A reward model in bfloat16 gives 8.0625 and 0.03125. Their difference, 8.03125, needs nine digits of eight: 8.0
    it is, and the loss log(1 + e⁻⁸) for log(1 + e^-8.03125), three percent too high."""
    model = LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config)
    config = RewardConfig if trainer_class is RewardTrainer else trl.RewardConfig
    rows = Dataset.from_list([PAIR])
    trainer = trainer_class(model, config(str(tmp_path), **QUIET), train_dataset=rows, processing_class=tiny_tokenizer)
    rewards = SequenceClassifierOutputWithPast(logits=torch.tensor([[8.0625], [0.03125]], dtype=torch.bfloat16))
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(lambda **inputs: rewards, batch).item()
    off = loss / math.log1p(math.exp(-8.03125)) - 1
    assert (abs(off) < 1e-5) if trainer_class is RewardTrainer else (off > 0.025)


@pytest.mark.parametrize("library", ["trl", "ours"])
def test_sft_drops_rows_without_a_word(library, tiny_llama, tiny_tokenizer, tmp_path, caplog):
    """`max_length` leaves the first row nothing to learn."""
    long = tiny_tokenizer("What is the colour? " * 20)["input_ids"]
    rows = Dataset.from_list(
        [{"prompt": "What is the colour? " * 20, "completion": "Blue."}, PAIR | {"completion": "x"}]
    )
    rows = rows.select_columns(["prompt", "completion"])
    trainer_class, config = (trl.SFTTrainer, trl.SFTConfig) if library == "trl" else (SFTTrainer, SFTConfig)
    args = config(str(tmp_path), max_length=len(long), **QUIET)

    def make():
        return trainer_class(tiny_llama(0), args, train_dataset=rows, processing_class=tiny_tokenizer)

    if library == "ours":
        with pytest.raises(InputError, match="row 0: max_length"):
            make()
    else:
        assert len(make().train_dataset) == 1
        assert "row" not in caplog.text


@pytest.mark.parametrize("library", ["trl", "ours"])
def test_precomputed_references_survive_another_cut(library, tiny_llama, tiny_tokenizer, tmp_path):
    """The cache's name does not know where rows are cut: with `keep_end`, TRL takes the log-probs of uncut answers."""
    long = {"prompt": "Mara", "chosen": " lives in Oakton." * 8, "rejected": " is a door." * 8}
    Dataset.from_list([long]).save_to_disk(tmp_path / "rows")
    trainer_class, config = (trl.DPOTrainer, trl.DPOConfig) if library == "trl" else (DPOTrainer, DPOConfig)
    margins = []
    for max_length in (None, 16):
        cut = dict(max_length=max_length, truncation_mode="keep_end", precompute_ref_log_probs=True)
        args = config(str(tmp_path), learning_rate=0.0, **cut, **QUIET)
        rows = Dataset.load_from_disk(tmp_path / "rows")
        trainer = trainer_class(tiny_llama(0), args=args, train_dataset=rows, processing_class=tiny_tokenizer)
        batch = trainer.data_collator(list(trainer.train_dataset))
        trainer.compute_loss(trainer.model, batch)
        margins.append(abs(trainer._metrics["train"]["rewards/chosen"][-1]))
    assert margins[0] < 1e-4, "the policy is the reference, so its reward is 0"
    assert (margins[1] < 1e-4) == (library == "ours")


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


def test_trl_ppo_fines_answers_that_stopped():
    """Each answer ends with the stop token of the config. TRL looks for the tokenizer's EOS, and fines all 1."""
    mean = sum(trl_ppo.SCORES) / 4
    key = "mean_score_of_stopped_answers_fined_1_for_not_stopping"
    assert GOLDEN["evidence"][key] == pytest.approx(mean - 1)
    assert all(trl_ppo.STOP in answer and trl_ppo.EOS not in answer for answer in trl_ppo.STOPPED)


def test_trl_ppo_saves_no_critic_and_cannot_resume():
    assert GOLDEN["evidence"]["saved_of_the_critic"] == []
    assert GOLDEN["evidence"]["arguments_of_train"] == ["self"]
