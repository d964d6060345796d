"""Static masks: each document several times, each time with one mask that it keeps (BERT's preprocessing)."""

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets

from hfcourse.errors import InputError


def static_masks(
    dataset: Dataset | IterableDataset, dupe_factor: int = 10, seed: int = 0
) -> Dataset | IterableDataset:
    """`dupe_factor` copies of every row, each with a `mask_seed` of its own, from which the collator draws its mask.

    BERT's script writes masked copies to disk; here the seeds are stored and the masks follow from them, so that
    copies cost nothing. Over any number of epochs a row is seen with at most `dupe_factor` different masks.

    Args:
        dataset: of any columns. Read one after another, the copies are whole passes over it; shuffle them in training.
        dupe_factor: copies; BERT's is 10.
        seed: other masks.

    Returns:
        Dataset of the same kind with the column `mask_seed`, which `hfcourse.collators.DataCollatorForMaskedLM` reads.
    """
    if dupe_factor < 1:
        raise InputError(f"dupe_factor={dupe_factor}: at least one copy is needed")
    if isinstance(dataset, IterableDataset):
        copies = [
            dataset.map(_with_seed, with_indices=True, fn_kwargs={"copy": copy, "seed": seed})
            for copy in range(dupe_factor)
        ]
    else:
        copies = [
            dataset.add_column("mask_seed", _seeds(np.arange(len(dataset)), copy, seed)) for copy in range(dupe_factor)
        ]
    return concatenate_datasets(copies)


def _with_seed(row: dict, index: int, copy: int, seed: int) -> dict:
    return {**row, "mask_seed": int(_seeds(np.array([index]), copy, seed)[0])}


def _seeds(indices: np.ndarray, copy: int, seed: int) -> np.ndarray:
    # 2^40 rows, 2^11 copies and 2^12 seeds have a number each; the collator's hash does the mixing.
    return indices | (copy % 2**11) << 40 | (seed % 2**12) << 51
