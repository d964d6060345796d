"""Two gloo processes with half the batch each learn what one process learns from the whole batch."""

import json
from pathlib import Path

import pytest
import torch

from tests.distributed.language_models import ROWS, train_all
from tests.distributed.launch import run_on_processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train_all(str(tmp_path_factory.mktemp("alone")), ROWS)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes learnt: CausalLMTrainer, SFTTrainer, and it again after an evaluation, twice."""
    folder = str(tmp_path_factory.mktemp("together"))
    outputs = run_on_processes(Path(__file__).parent / "language_models.py", folder, str(ROWS // 2))
    return [[json.loads(line) for line in out.splitlines()[-4:]] for out in outputs]


def test_two_processes_equal_one(ranks, alone):
    """A mean of the processes' means would weigh the tokens of the emptier half too much."""
    for rank in ranks:
        for learnt, expected in zip(map(dict, rank[:2]), alone[:2], strict=True):
            assert learnt.pop("num_processes") == 2
            torch.testing.assert_close(learnt.pop("sums"), expected["sums"], atol=1e-4, rtol=1e-5)
            for name, value in learnt.items():
                # TRL's evaluation averages over rows, and processes fill up different ones.
                if not (name == "eval_loss" and "entropy" in learnt):
                    assert value == pytest.approx(expected[name], abs=1e-5), name


def test_two_processes_that_evaluate_first_learn_together(ranks, alone):
    """transformers' own evaluation leaves the model without DDP: each process would learn from its half alone."""
    for rank in ranks:
        torch.testing.assert_close(rank[2]["sums"], alone[1]["sums"], atol=1e-4, rtol=1e-5)
        assert rank[2]["eval_loss"] == rank[1]["eval_loss"]
    assert ranks[0][3]["sums"] == ranks[1][3]["sums"] != alone[3]["sums"], "in bf16 one sum of halves is another sum"
