"""Batches for pretraining: rows of ids in, what is hidden and what is to be predicted out."""

from hfcourse.collators.denoisers import (
    PREFIX_LM,
    UL2_DENOISERS,
    DataCollatorForMixtureOfDenoisers,
    DataCollatorForTextToText,
    Denoiser,
)
from hfcourse.collators.masked_lm import DataCollatorForMaskedLM
from hfcourse.collators.span_corruption import DataCollatorForSpanCorruption

__all__ = [
    "PREFIX_LM",
    "UL2_DENOISERS",
    "DataCollatorForMaskedLM",
    "DataCollatorForMixtureOfDenoisers",
    "DataCollatorForSpanCorruption",
    "DataCollatorForTextToText",
    "Denoiser",
]
