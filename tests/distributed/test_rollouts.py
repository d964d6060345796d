"""Two gloo processes against one, rollouts replayed from a file: rewards, advantages, gradients, parameters."""

import json
from pathlib import Path

import pytest
import torch

from tests.distributed.launch import run_on_processes
from tests.distributed.rollouts import learnt, replaying, write_rollouts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("rollouts"))
    write_rollouts(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    outputs = run_on_processes(Path(__file__).parent / "rollouts.py", folder, timeout=300)
    return [json.loads(out.splitlines()[-1]) for out in outputs]


def close(a, b, **tolerance) -> bool:
    return torch.allclose(torch.tensor(a), torch.tensor(b), **tolerance)


def test_five_sgd_updates_on_two_processes_are_those_of_one(ranks, folder):
    """Rewards, advantages and gradient norms to 1e-5, every parameter after five updates to 1e-6. Broken: advantages
    whitened by each process's own moments."""
    alone = learnt(replaying(folder, 1))
    for rank in ranks:
        assert rank["sgd"]["num_processes"] == 2
        for prompt, advantages in rank["sgd"]["advantages"].items():
            assert close(advantages, alone["advantages"][prompt], atol=1e-5, rtol=0), prompt
        assert len(rank["sgd"]["logged"]) == len(alone["logged"]) == 5
        for a, b in zip(rank["sgd"]["logged"], alone["logged"], strict=True):
            assert a == pytest.approx(b, abs=1e-5, rel=1e-5)
        assert close(rank["sgd"]["parameters"], alone["parameters"], atol=1e-6, rtol=0)
        assert not close(rank["broken"]["parameters"], alone["parameters"], atol=1e-6, rtol=0)
    seen = [prompt for rank in ranks for prompt in rank["sgd"]["advantages"]]
    assert sorted(seen) == sorted(alone["advantages"])


def test_under_fsdp2_it_is_the_same(folder):
    """Weights cut over two processes, the head and the critic among them; gathered again they are one process's."""
    alone = learnt(replaying(folder, 1))
    outputs = run_on_processes(Path(__file__).parent / "rollouts.py", folder, "fsdp2", timeout=300)
    for rank in (json.loads(out.splitlines()[-1]) for out in outputs):
        assert rank["num_processes"] == 2
        for prompt, advantages in rank["advantages"].items():
            assert close(advantages, alone["advantages"][prompt], atol=1e-5, rtol=0), prompt
        assert close(rank["parameters"], alone["parameters"], atol=1e-6, rtol=0)


def test_adamws_curve_is_that_of_one_process(ranks, folder):
    alone = learnt(replaying(folder, 1, optim="adamw_torch", learning_rate=1e-2))
    for rank in ranks:
        curve, expected = ([log["loss"] for log in run["logged"]] for run in (rank["adamw"], alone))
        assert curve == pytest.approx(expected, abs=1e-3)


def test_free_running_is_reproducible_at_a_fixed_number_of_processes(ranks):
    for rank in ranks:
        assert rank["free"] == rank["again"]
    assert ranks[0]["free"]["parameters"] == ranks[1]["free"]["parameters"]
    assert ranks[0]["free"]["advantages"] != ranks[1]["free"]["advantages"], "each process samples for itself"
