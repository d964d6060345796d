"""Rows however they come are one array, and what is no integer is refused, not cut down to one."""

import numpy as np
import pytest
import torch

from hfcourse.collators.rows import matrix, padded
from hfcourse.errors import InputError

EVEN, RAGGED = [[1, -2, 2**40], [0, 5, 6]], [[7], [], [1, 2, 3]]
FORMS = {
    "lists": lambda rows: rows,
    "tuples": lambda rows: [tuple(row) for row in rows],
    "arrays": lambda rows: [np.array(row, dtype=np.int64) for row in rows],
    "tensors": lambda rows: [torch.tensor(row, dtype=torch.int64) for row in rows],
    "mixed": lambda rows: [rows[0], *(np.array(row, dtype=np.int64) for row in rows[1:])],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_array(form):
    assert matrix(form(EVEN)).tolist() == EVEN
    array, lengths = padded(form(RAGGED), "input_ids", multiple=2)
    assert array.tolist() == [[7, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 0]]
    assert lengths.tolist() == [1, 0, 3]
    array[0, 0] = 9  # the caller's to change, and no window on the rows
    assert padded(form(RAGGED), "input_ids")[0][0, 0] == 7


@pytest.mark.parametrize("rows", [[[1.5, 2.0]], [[1, 2.5], [3, 4]], [["a", "b"]], [np.array([0.5, 1.0])]])
def test_what_is_no_integer_is_refused(rows):
    with pytest.raises(InputError, match="integers"):
        matrix(rows)
    with pytest.raises(InputError, match="input_ids: must be"):
        padded([*rows, [1]], "input_ids")
    with pytest.raises(InputError, match="input_ids: must be"):
        padded(rows, "input_ids")
