"""Tokenizers: trained on your text, to read (`train_bpe`, `train_wordpiece`) and to use (`train_tokenizer`)."""

from hfcourse.tokenization.bpe import BPE, train_bpe
from hfcourse.tokenization.training import train_tokenizer
from hfcourse.tokenization.wordpiece import WordPiece, train_wordpiece

__all__ = ["BPE", "WordPiece", "train_bpe", "train_tokenizer", "train_wordpiece"]
