"""On two processes too our trainers and TRL's take the same step, but for what TRL does wrong there. One launch."""

import json
from pathlib import Path

import pytest

from tests.distributed.launch import run_on_processes
from tests.trainers.trl_agreement import CELLS, assert_agree, prepare


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Of each rank, what it found: by cell, and by fault."""
    folder = prepare(tmp_path_factory.mktemp("agreement"))
    outputs = run_on_processes(Path(__file__).parent / "agreement.py", str(folder), timeout=600)
    found = [[json.loads(line) for line in out.splitlines() if line.startswith('{"')] for out in outputs]
    return [{line["cell"]: line for line in of_rank[:-2]} | of_rank[-2] | of_rank[-1] for of_rank in found]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_two_processes(cell, ranks):
    for found in ranks:
        assert found[str(cell)]["num_processes"] == 2
        assert_agree(found[str(cell)])


def test_trl_cannot_share_the_reference_of_rows_in_memory(ranks):
    """Each process looks for the file in a temporary folder of its own; the main process alone has written it. Ours
    takes the rows of every cell from memory."""
    assert [found["reference_of_rows_in_memory"] for found in ranks] == ["fine", "FileNotFoundError"]


def test_transformers_parts_the_processes_after_an_evaluation(ranks):
    """`evaluate()` before `train()`: the parent then trains without DDP, each process on its own rows."""
    ours, theirs = ([found["learnt_after_an_evaluation"][name] for found in ranks] for name in ("hfcourse", "trl"))
    assert ours[0] == pytest.approx(ours[1], rel=1e-6)
    assert max(abs(a - b) for a, b in zip(*theirs, strict=True)) > 1e-3
