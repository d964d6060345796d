"""The enumerable world: its truth is the truth, its data are drawn as it says, its trainers see what it lists."""

import pytest
import torch

from hfcourse.evaluation.enumerable import LETTERS, PROMPTS, EnumerableWorld
from hfcourse.rl import sequence_kl


@pytest.fixture(scope="module")
def world():
    return EnumerableWorld.make()


def test_it_starts_as_far_from_the_optimum_as_stated(world):
    """KL(π_ref ‖ π*) = 0.721 nats, the mean over the prompts, and every answer is listed: probabilities sum to 1."""
    assert sequence_kl(world.ref_logps, world.optimum()).mean().item() == pytest.approx(0.7214, abs=1e-4)
    letters = len(LETTERS)
    num_answers = sum(letters**k for k in range(4)) + letters**4
    assert world.ref_logps.shape == (4, num_answers) == (4, 781)
    torch.testing.assert_close(world.ref_logps.exp().sum(1), torch.ones(4, dtype=torch.float64))


def test_log_probs_are_those_of_each_answer_alone(world):
    """A prompt of three letters and one of one, unpadded, token by token, from the model's plain logits."""
    model = world.policy()
    for x, row in ((0, 500), (3, 27)):
        prompt = world.tokenizer(PROMPTS[x])["input_ids"]
        answer = world.completion_ids[row][world.completion_mask[row].bool()].tolist()
        logits = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
        expected = sum(logits[len(prompt) - 1 + t, token].item() for t, token in enumerate(answer))
        assert world.logps(model)[x, row].item() == pytest.approx(expected, abs=1e-5)


def test_score_of_the_reference_and_of_the_optimum(world):
    """β KL(π ‖ π*) = J* - J(π); at the optimum both are 0; the reference's reward is 0 by construction."""
    start = world.score(world.policy())
    assert start["regret"] == pytest.approx(world.beta * start["kl_to_optimum"], rel=1e-9)
    assert (start["reward"], start["kl_to_reference"]) == pytest.approx((0, 0), abs=1e-12)
    best = world.score(world.optimum())
    assert best["kl_to_optimum"] == pytest.approx(0, abs=1e-12)
    assert best["reward"] - world.beta * best["kl_to_reference"] == pytest.approx(start["regret"], rel=1e-9)


def test_samples_are_answers_that_are_listed_with_the_probability_that_is_listed(world):
    """4,000 samples of `generate`: the mean of their rewards is E_π[r], and no pad token was written before EOS."""
    inputs = world.tokenizer(["bc"] * 4000, return_tensors="pt")
    torch.manual_seed(0)
    written = world.policy().generate(**inputs, max_new_tokens=4, do_sample=True, top_k=0)[:, 2:]
    rows = []
    for ids in written.tolist():
        length = ids.index(1) + 1 if 1 in ids else len(ids)
        assert set(ids[length:]) <= {0}
        rows.append(ids[:length])
    rewards = torch.tensor(world.reward(["bc"] * 4000, rows))
    assert rewards.mean().item() == pytest.approx(0, abs=4 * 0.68 / 4000**0.5)
    assert rewards.std().item() == pytest.approx(0.68, rel=0.05)


def test_labels_follow_bradley_terry(world):
    """Of 4,000 pairs of different answers, the better one is preferred as often as σ of the difference says."""
    pairs = world.preferences(4000, seed=1)
    assert len(pairs) == 4000
    differences = []
    for row in pairs:
        ids = [world.tokenizer(row[side][0]["content"])["input_ids"] for side in ("chosen", "rejected")]
        assert ids[0] != ids[1]
        chosen, rejected = world.reward([row["prompt"][0]["content"]] * 2, ids)
        differences.append(chosen - rejected)
    differences = torch.tensor(differences)
    expected = torch.sigmoid(differences.abs())
    correct = (differences > 0).double()
    assert correct.mean().item() == pytest.approx(expected.mean().item(), abs=4 * 0.5 / 4000**0.5)


def test_chat_form_of_a_pair_adds_nothing(world):
    """An answer that was cut has no EOS, one that ended has its own."""
    rows = world.preferences(50)
    endings = set()
    for row in rows:
        text = world.tokenizer.apply_chat_template(row["prompt"] + row["chosen"], tokenize=False)
        assert text == row["prompt"][0]["content"] + row["chosen"][0]["content"]
        endings.add(text.endswith("."))
        assert text.endswith(".") or len(row["chosen"][0]["content"]) == 4
    assert endings == {True, False}


def test_a_world_is_its_seed(world):
    state = torch.random.get_rng_state()
    again, other = EnumerableWorld.make(), EnumerableWorld.make(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again.rewards, world.rewards)
    assert torch.equal(again.ref_logps, world.ref_logps)
    assert not torch.equal(other.rewards, world.rewards)
