"""How fast is `train_bpe`, beside the library's Rust and beside counting anew? One thread, paired, medians of nine.

    python benchmarks/tokenizer_training.py [FILE …]        # FILEs: more texts to train on, reported by name

- English (help topics and docstrings that come with Python and torch), 1 MB, against `tokenizers.trainers.BpeTrainer`;
- Chinese, generated, 0.5 MB (tests/tokenization/corpora.py), likewise: long words, little to share, Rust is ahead;
- 50 kB, 256 merges, against counting every pair anew for each merge (benchmarks/references/recounting_bpe.py).

Its name is not `tokenizers.py`, which the other benchmarks would then import instead of the library.
The last line is the result as JSON; benchmarks/tokenizer_training.json is that of the last committed run.
"""

import json
import os
import platform
import statistics
import sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1]))  # the corpora of the tests

from references import recounting_bpe
from references.paired import median_ratio, paired_rounds
from tokenizers import Tokenizer, __version__, models, pre_tokenizers, trainers

from hfcourse.tokenization import train_bpe
from tests.tokenization.corpora import chinese, english

VOCAB_SIZE = 8000


def library(texts: list[str], vocab_size: int) -> dict[str, int]:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe.get_vocab()


def against_rust(texts: list[str], rounds: int = 9) -> dict[str, float]:
    if library(texts, VOCAB_SIZE) != train_bpe(texts, VOCAB_SIZE).vocab:
        raise AssertionError("the vocabularies differ")
    functions = {"rust": lambda: library(texts, VOCAB_SIZE), "ours": lambda: train_bpe(texts, VOCAB_SIZE)}
    times = paired_rounds(functions, rounds, calls=1)
    seconds = {f"seconds_{name}": round(statistics.median(t), 3) for name, t in times.items()}
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return {
        "megabytes": round(megabytes, 2),
        "ratio_to_rust": round(median_ratio(times["ours"], times["rust"]), 2),
    } | seconds


def against_counting_anew(num_merges: int = 256) -> dict[str, float]:
    text = "".join(english(50_000))
    times = paired_rounds(
        {
            "anew": lambda: recounting_bpe.train(text, num_merges),
            "ours": lambda: train_bpe([text], 256 + num_merges),
        },
        rounds=9,
        calls=1,
    )
    return {"ratio_to_ours": round(median_ratio(times["anew"], times["ours"]), 1), "merges": num_merges}


if __name__ == "__main__":
    result = {"benchmark": "tokenizer_training", "vocab_size": VOCAB_SIZE}
    result["english"] = against_rust(english())
    result["counting_anew"] = against_counting_anew()
    result["chinese"] = against_rust(chinese(500_000), rounds=3)
    for file in sys.argv[1:]:
        result[Path(file).name] = against_rust(Path(file).read_text(encoding="utf-8").splitlines(), rounds=3)
    result["machine"] = (
        f"{platform.machine()}, one thread, Python {platform.python_version()}, tokenizers {__version__}"
    )
    print(json.dumps(result))
