"""Tokenizers for pretraining tasks: a thousand words and T5's sentinels behind them."""

import pytest

NUM_WORDS = 1000
SENTINELS = [f"<extra_id_{j}>" for j in range(500)]


@pytest.fixture(scope="session")
def t5_tokenizer():
    """<pad> 0, </s> 1, <unk> 2, words to 999, three mode tokens, and 500 sentinels that descend from the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, NUM_WORDS)}}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    modes = ["[S]", "[X]", "[R]"]
    tokenizer.add_special_tokens({"extra_special_tokens": [*modes, *reversed(SENTINELS)]})
    return tokenizer


TEXTS = (
    "The quick brown-fox jumped, didn't it? Unbelievably, 3 foxes slept near Oakton.",
    "东京 is 東京都, and 北京 is the capital; 我喜欢喝茶。Tea, please!",
    "internationalization of unbelievable neighbourhoods, café naïve",
)


WORD_PIECES = """the qu ##ick brown - fox jump ##ed , did ##n ' t it ? un ##believ ##ably 3 ##es slept near oak ##ton
. is and of capital ; please tea !"""


@pytest.fixture(scope="session")
def word_piece():
    """BERT's kind: `##` continues a word, and Han characters are split off before."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*WORD_PIECES.split(), *"我喜欢喝茶。北京東都"]
    words = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": pieces[i] for i, name in enumerate(names)}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def _trained(pre_tokenizer, decoder, alphabet, vocab_size):
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token=None if alphabet else "<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizer, decoder
    special = ["<pad>", "<s>", "</s>", "<mask>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", cls_token="<s>", sep_token="</s>", mask_token="<mask>"
    )


@pytest.fixture(scope="session")
def byte_level():
    """RoBERTa's kind. The first merges alone: a Han character is two tokens or three."""
    from tokenizers import decoders, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), alphabet, 330)


@pytest.fixture(scope="session")
def metaspace():
    """T5's and Llama's kind: `▁` begins a word, and punctuation sticks to the word before it."""
    from tokenizers import decoders, pre_tokenizers

    return _trained(pre_tokenizers.Metaspace(), decoders.Metaspace(), [], 160)
