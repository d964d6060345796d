"""Ensembles of reward models: one vote a head, centred, combined with care."""

import copy

import pytest
import torch
from transformers import LlamaForSequenceClassification

from hfcourse.errors import InputError
from hfcourse.models.reward_ensemble import RewardEnsemble
from hfcourse.models.reward_model import load_reward_model, score, score_heads

PROMPTS, ANSWERS = ["Mara", "The fox"], [" lives.", " sleeps near the river."]


@pytest.fixture
def members(tiny_llama, tiny_tokenizer):
    """A model with two heads and one with one, whose mean over reference samples is 5."""
    models = []
    for seed, labels in ((0, 2), (1, 1)):
        torch.manual_seed(seed)
        models.append(LlamaForSequenceClassification(tiny_llama(seed, num_labels=labels).config))
    models[1].config.reward_mean = 5.0
    return [(model.eval(), copy.deepcopy(tiny_tokenizer)) for model in models]


def test_combinations_by_hand(members):
    first = score_heads(*members[0], PROMPTS, ANSWERS)
    second = score(*members[1], PROMPTS, ANSWERS)
    heads = [[*a, b] for a, b in zip(first, second, strict=True)]
    ensemble = RewardEnsemble(members)
    assert ensemble.heads(PROMPTS, ANSWERS) == heads
    assert ensemble(PROMPTS, ANSWERS) == pytest.approx([sum(h) / 3 for h in heads])
    assert RewardEnsemble(members, "min")(PROMPTS, ANSWERS) == [min(h) for h in heads]
    lower = RewardEnsemble(members, "lower")(PROMPTS, ANSWERS)
    for value, h in zip(lower, heads, strict=True):
        mean = sum(h) / 3
        assert value == pytest.approx(mean - (sum((x - mean) ** 2 for x in h) / 3) ** 0.5)
    model = members[1][0]
    model.config.reward_mean = None
    assert score(*members[1], PROMPTS, ANSWERS) == pytest.approx([r + 5 for r in second], abs=1e-5)


def test_an_answer_that_was_cut_is_read_without_eos(members):
    eos = members[0][1].eos_token_id
    ensemble = RewardEnsemble(members, "min")
    cut = ensemble(PROMPTS, ANSWERS, completion_ids=[[9, 9], [9, eos]])
    whole = ensemble(PROMPTS, ANSWERS)
    assert cut[0] != pytest.approx(whole[0], abs=1e-3)
    assert cut[1] == whole[1]


def test_members_by_path(members, tmp_path):
    model, tokenizer = members[0]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_reward_model(str(tmp_path)).config.num_labels == 2
    assert RewardEnsemble([str(tmp_path)])(PROMPTS, ANSWERS) == score(model, tokenizer, PROMPTS, ANSWERS)


def test_bad_ensembles(members):
    with pytest.raises(InputError, match="combine=median: must be one of mean, min, lower"):
        RewardEnsemble(members, "median")
    with pytest.raises(InputError, match="at least one"):
        RewardEnsemble([])


def test_nothing_is_cut(members):
    with pytest.raises(InputError, match=r"row 1 of the batch has .* exceed its 256 positions"):
        score(*members[1], PROMPTS, [" lives.", " tea" * 300])
