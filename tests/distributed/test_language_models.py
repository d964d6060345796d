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
    """What each of two processes learnt: all trainers, and SFTTrainer again after an evaluation, twice."""
    folder = str(tmp_path_factory.mktemp("together"))
    outputs = run_on_processes(Path(__file__).parent / "language_models.py", folder, str(ROWS // 2))
    return [[json.loads(line) for line in out.splitlines()[-7:]] for out in outputs]


def test_two_processes_equal_one(ranks, alone):
    """A mean of the processes' means would weigh the tokens of the emptier half too much."""
    for rank in ranks:
        for learnt, expected in zip(map(dict, rank[:5]), alone[:5], strict=True):
            assert learnt.pop("num_processes") == 2
            torch.testing.assert_close(learnt.pop("sums"), expected["sums"], atol=1e-4, rtol=1e-5)
            for name, value in learnt.items():
                # TRL's evaluation averages over rows, and processes fill up different ones.
                if not (name == "eval_loss" and "entropy" in learnt):
                    assert value == pytest.approx(expected[name], abs=1e-5), name


def test_under_fsdp2_it_is_the_same(alone, tmp_path):
    """Weights cut over two processes, the head among them: cut and gathered hidden states meet it as one process's."""
    outputs = run_on_processes(
        Path(__file__).parent / "language_models.py", str(tmp_path), str(ROWS // 2), "fsdp2", timeout=300
    )
    for out in outputs:
        for line, expected in zip(out.splitlines()[-2:], alone[:2], strict=True):
            learnt = json.loads(line)
            assert learnt["num_processes"] == 2
            assert learnt["loss"] == pytest.approx(expected["loss"], abs=1e-5)
            torch.testing.assert_close(learnt["sums"], expected["sums"], atol=1e-4, rtol=1e-5)


def test_two_processes_that_evaluate_first_learn_together(ranks, alone):
    """transformers' own evaluation leaves the model without DDP: each process would learn from its half alone."""
    for rank in ranks:
        torch.testing.assert_close(rank[5]["sums"], alone[1]["sums"], atol=1e-4, rtol=1e-5)
        assert rank[5]["eval_loss"] == rank[1]["eval_loss"]
    assert ranks[0][6]["sums"] == ranks[1][6]["sums"] != alone[6]["sums"], "in bf16 one sum of halves is another sum"
