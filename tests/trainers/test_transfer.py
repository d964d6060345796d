"""What a pretrained encoder passes on: its embeddings what words are like, the whole of it what goes with what.

`benchmarks/transfer.py` is the same with two pairs in a sentence, on three seeds, and against causal pretraining.
"""

import pytest

from benchmarks.references.agreement_language import AgreementLanguage
from benchmarks.references.transfer import accuracy, pretrain

LANGUAGE = AgreementLanguage(classes=4, nouns=8, verbs=4, fillers=8, length=4, pairs=1)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return pretrain("masked", LANGUAGE, seed=0, steps=500, folder=str(tmp_path_factory.mktemp("trunk")))


def test_its_embeddings_tell_the_class_of_words_that_no_label_showed(trunk):
    """16 labels name at most half of the 32 nouns; chance is 1/4."""
    random, embeddings = (accuracy(LANGUAGE, "class", 16, 0, start) for start in (None, trunk))
    assert embeddings >= random + 0.2


def test_only_the_whole_of_it_tells_whether_two_words_agree(trunk):
    """Chance is 1/2: each noun and each verb is as often in a sentence that agrees as in one that does not."""
    embeddings, whole = (accuracy(LANGUAGE, "agrees", 128, 0, trunk, whole=whole) for whole in (False, True))
    assert whole >= embeddings + 0.2
    assert whole > 0.9
