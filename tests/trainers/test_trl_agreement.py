"""From the same rows and weights our trainers and TRL's take the same step: losses, gradients, metrics."""

import pytest

from tests.trainers.trl_agreement import CELLS, Cell, assert_agree, compare, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("agreement"))


def test_rloo_logs_another_entropy_in_micro_batches(folder):
    """One rollout, in one micro-batch and in four of unequal length: ours is the mean over its tokens both times."""
    whole, parts = (compare(Cell("reinforce", "full", "online", n), folder) for n in (1, 4))
    for name in ("entropy", "kl", "kl_k3", "kl_sequence", "reward", "rlhf_reward", "grad_norm"):
        assert parts["ours"][name] == pytest.approx(whole["ours"][name], rel=1e-5), name
    assert whole["theirs"]["entropy"] == pytest.approx(whole["ours"]["entropy"], rel=1e-5)
    assert abs(parts["theirs"]["entropy"] / whole["theirs"]["entropy"] - 1) > 3e-4


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_one_process(cell, folder):
    result = compare(cell, folder)
    assert result["num_processes"] == 1
    assert_agree(result)
