"""Two gloo processes with half the batch each learn what one process learns from the whole batch."""

import json
from pathlib import Path

import pytest
import torch

from tests.distributed.language_models import ROWS, train_both
from tests.distributed.launch import run_on_processes


def test_two_processes_equal_one(tmp_path):
    """A mean of the processes' means would weigh the tokens of the emptier half too much."""
    alone = train_both(str(tmp_path), ROWS)
    ranks = run_on_processes(Path(__file__).parent / "language_models.py", str(tmp_path), str(ROWS // 2))
    for out in ranks:
        for learnt, expected in zip(map(json.loads, out.splitlines()[-2:]), alone, strict=True):
            assert learnt.pop("num_processes") == 2
            torch.testing.assert_close(learnt.pop("sums"), expected["sums"], atol=1e-4, rtol=1e-5)
            for name, value in learnt.items():
                # TRL's evaluation averages over rows, and processes fill up different ones.
                if not (name == "eval_loss" and "entropy" in learnt):
                    assert value == pytest.approx(expected[name], abs=1e-5), name
