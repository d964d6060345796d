"""Word vectors: neighbours and analogies by hand, every file read back exactly, and a model's embedding table."""

import gzip

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from hfcourse.errors import InputError
from hfcourse.models.word_vectors import SAFETENSORS_FILE, WordVectors, load_embedding_table

# Sex along one axis, rank along another; a word of no kin along the third.
PLANE = WordVectors(
    ["man", "woman", "king", "queen", "tea"],
    torch.tensor([[1.0, 0, 0.1], [-1, 0, 0.1], [1, 2, 0.1], [-1, 2, 0.1], [0, 0, 5]]),
)
RANDOM = WordVectors(["a", "Ġb", "日", "#"], torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))


def test_neighbours_by_hand():
    """cos(king, queen) = (-1 + 4 + 0.01)/(1 + 4 + 0.01) = 3.01/5.01; with man 1.01/√(5.01 · 1.01)."""
    near = PLANE.nearest("king", k=2)
    assert [word for word, _ in near] == ["queen", "man"]
    assert [cosine for _, cosine in near] == pytest.approx([3.01 / 5.01, 1.01 / (5.01 * 1.01) ** 0.5])
    assert [word for word, _ in PLANE.nearest(torch.tensor([0.0, 0, 9]), k=1)] == ["tea"]
    assert len(PLANE.nearest("king", k=10)) == 4


def test_analogies():
    assert PLANE.analogy("man", "king", "woman")[0][0] == "queen"
    questions = [("man", "king", "woman", "queen"), ("man", "king", "woman", "tea"), ("man", "boy", "woman", "girl")]
    assert PLANE.analogy_accuracy(questions) == (0.5, 2)
    assert PLANE.analogy_accuracy([]) == (0, 0)


def test_the_question_is_no_answer():
    """woman - man + king lies nearest to king itself where the offsets are small; a plain search would say so."""
    vectors = WordVectors(["a", "b", "c", "d"], torch.tensor([[1.0, 0], [1, 0.1], [0, 1.0], [-1, 1]]))
    assert vectors.nearest(vectors["b"] - vectors["a"] + vectors["c"], k=1)[0][0] == "c"
    assert vectors.analogy("a", "b", "c")[0][0] == "d"


@pytest.mark.parametrize("file", ["v.txt", "v.safetensors"])
def test_files_are_read_back_exactly(tmp_path, file):
    save = RANDOM.save_word2vec if file.endswith("txt") else RANDOM.save_safetensors
    save(tmp_path / file)
    loaded = WordVectors.load(tmp_path / file)
    assert list(loaded.words) == RANDOM.words
    assert torch.equal(loaded.vectors, RANDOM.vectors)


def test_word2vecs_text_by_hand(tmp_path):
    WordVectors(["a", "b"], torch.tensor([[0.5, -1], [2, 1e-8]])).save_word2vec(tmp_path / "v.txt")
    assert (tmp_path / "v.txt").read_text() == "2 2\na 0.5 -1\nb 2 9.99999994e-09\n"


def test_gloves_text_has_no_header_and_words_with_spaces(tmp_path):
    with gzip.open(tmp_path / "glove.txt.gz", "wt", encoding="utf-8") as file:
        file.write("the 0.5 1 2\nat name@domain.com 1 2 3\n\u00a0 4 5 6\n")
    loaded = WordVectors.load(tmp_path / "glove.txt.gz")
    assert list(loaded.words) == ["the", "at name@domain.com", "\u00a0"]
    assert loaded["at name@domain.com"].tolist() == [1, 2, 3]


def test_a_matrix_whose_rows_a_tokenizer_names(tmp_path, tiny_tokenizer):
    table = torch.randn(len(tiny_tokenizer), 4)
    save_file({"embedding.weight": table.half()}, tmp_path / SAFETENSORS_FILE)
    loaded = WordVectors.load(tmp_path, tiny_tokenizer)
    assert torch.equal(loaded["<|endoftext|>"], table.half().float()[tiny_tokenizer.eos_token_id])
    with pytest.raises(InputError, match="does not name its rows"):
        WordVectors.load(tmp_path)


@pytest.fixture
def words_of(tiny_tokenizer):
    """Words named in three manners, and one that is no token; (vectors, ids of the tokens that they are)."""
    frequent = [token for token in tiny_tokenizer.get_vocab() if len(token) > 3 and token.startswith("Ġ")][:3]
    names = [frequent[0], frequent[1][1:], "▁" + frequent[2][1:], "zebra"]
    vectors = WordVectors(names, torch.arange(4.0)[:, None] + torch.ones(4, 32) / 2)
    return vectors, tiny_tokenizer.convert_tokens_to_ids(frequent)


@pytest.mark.parametrize("freeze", [True, False])
def test_as_a_models_embedding_table(tiny_llama, tiny_tokenizer, words_of, tmp_path, freeze):
    vectors, ids = words_of
    model = tiny_llama()
    before = model.get_input_embeddings().weight.detach().clone()
    assert load_embedding_table(model, tiny_tokenizer, vectors, freeze=freeze) >= 3
    table = model.get_input_embeddings().weight
    assert torch.equal(table[ids].detach(), vectors.vectors[:3])
    changed = (table.detach() != before).any(1)
    assert set(ids) <= set(changed.nonzero().flatten().tolist())
    assert changed.sum() < 8  # the other rows stay as they were
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = torch.tensor([ids * 2])
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    assert torch.equal(table[ids].detach(), vectors.vectors[:3]) == freeze
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).get_input_embeddings().weight
    assert torch.equal(loaded, table)


def test_bad_input_is_named(tiny_llama, tiny_tokenizer, tmp_path):
    with pytest.raises(InputError, match="'zebra' has no vector; 5 words have"):
        PLANE.analogy("man", "king", "zebra")
    with pytest.raises(InputError, match="3 dimensions, the model's embeddings 32"):
        load_embedding_table(tiny_llama(), tiny_tokenizer, PLANE)
    with pytest.raises(InputError, match="no token of the tokenizer"):
        load_embedding_table(tiny_llama(), tiny_tokenizer, WordVectors(["zebra"], torch.ones(1, 32)))
    with pytest.raises(InputError, match="there is no file"):
        WordVectors.load(tmp_path / "nothing.txt")
    with pytest.raises(InputError, match="parts words by spaces"):
        WordVectors(["New York"], torch.ones(1, 2)).save_word2vec(tmp_path / "v.txt")
    save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="holds 2 matrices"):
        WordVectors.load(tmp_path / "two.safetensors")
    for content, message in (("", "holds no word vectors"), ("a 1 2\nb 1\n", "line 2"), ("a 1 2\nb 1 x\n", "line 2")):
        (tmp_path / "bad.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            WordVectors.load(tmp_path / "bad.txt")
