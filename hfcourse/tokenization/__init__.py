"""Tokenizers: trained on your text, saved as an ordinary transformers folder."""

from hfcourse.tokenization.training import train_tokenizer

__all__ = ["train_tokenizer"]
