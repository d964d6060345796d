"""Rows of a batch, however they come, as one array; arrays and tensors without a detour over Python's integers."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hfcourse.errors import InputError

Rows = np.ndarray | torch.Tensor | Sequence


def column(rows: Rows, name: str) -> list | np.ndarray | torch.Tensor | None:
    """What each row holds under `name`; rows that are no dicts are their own `input_ids`. None where it is missing."""
    if len(rows) and isinstance(rows[0], Mapping):
        return [row[name] for row in rows] if name in rows[0] else None
    return rows if name == "input_ids" else None


def matrix(rows: list | np.ndarray | torch.Tensor, name: str = "input_ids") -> np.ndarray:
    """(B, L) integers of rows of one length.

    Raises:
        InputError: rows of several lengths, or none.
    """
    if isinstance(rows, torch.Tensor):
        rows = rows.numpy()
    if not isinstance(rows, np.ndarray):
        rows = [row.numpy() if isinstance(row, torch.Tensor) else row for row in rows]
        lengths = {len(row) for row in rows}
        if len(lengths) != 1:
            raise InputError(f"{name}: blocks of {sorted(lengths)} tokens in one batch; pack them to one length")
        rows = np.stack(rows) if isinstance(rows[0], np.ndarray) else _joined(rows).reshape(len(rows), -1)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise InputError(f"{name}: must be (rows, tokens) of integers, not {rows.shape} of {rows.dtype}")
    return rows


def padded(rows: list | np.ndarray | torch.Tensor, name: str, multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """((B, L) int64 filled up with 0 on the right, (B,) lengths) of rows of any lengths; L a multiple of `multiple`.

    Raises:
        InputError: no rows, none with a token, or other things than integers.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if not len(lengths) or not lengths.max():
        raise InputError(f"{name}: no row of the batch has a token; leave empty rows out")
    width = -(-int(lengths.max()) // multiple) * multiple
    if lengths.min() == width:
        return matrix(rows, name).astype(np.int64), lengths
    flat = _joined(rows)
    if flat.dtype.kind not in "iub":
        raise InputError(f"{name}: must be rows of integers, not of {flat.dtype}")
    filled = np.zeros((len(lengths), width), dtype=np.int64)
    filled[np.arange(width) < lengths[:, None]] = flat
    return filled, lengths


def _joined(rows: list) -> np.ndarray:
    """The rows one after another, of whatever type they are.

    Lists of integers are packed, in a third of the time that numpy takes: it looks at each twice, first for its type.
    """
    if all(isinstance(row, list | tuple) for row in rows):
        try:
            return np.frombuffer(b"".join([struct.pack(f"{len(row)}q", *row) for row in rows]), dtype=np.int64)
        except struct.error:  # no integers; what they are is for the caller to say
            pass
    return np.concatenate([np.asarray(row) for row in rows])
