"""Skip-gram: two tables of word vectors, one for words in the middle of a window, one for words around them."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hfcourse.losses import skip_gram_negative_sampling_loss
from hfcourse.models.word_vectors import WordVectors


class SkipGramConfig(PreTrainedConfig):
    """words: id -> word. hidden_size: d, the length of a vector."""

    model_type = "skip_gram"

    def __init__(self, words: list[str] | None = None, hidden_size: int = 100, **kwargs):
        self.words = words or []
        self.hidden_size = hidden_size
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self.words)


class SkipGram(PreTrainedModel):
    """What a word means is what stands around it: its center vector has to predict its neighbours' context vectors."""

    config_class = SkipGramConfig
    base_model_prefix = ""

    def __init__(self, config: SkipGramConfig):
        super().__init__(config)
        self.center = nn.Embedding(config.vocab_size, config.hidden_size)
        self.context = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # As in word2vec.c: small center vectors, and context vectors of zero, so that every score starts at 0.
        if module is self.center:
            module.weight.uniform_(-0.5 / self.config.hidden_size, 0.5 / self.config.hidden_size)
        elif module is self.context:
            module.weight.zero_()

    def forward(self, center: Tensor, context: Tensor, negatives: Tensor) -> Tensor:
        """(n,) losses of n pairs of ids: center (n,), context (n,), negatives (n, K)."""
        return skip_gram_negative_sampling_loss(self.center(center), self.context(context), self.context(negatives))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.center

    def word_vectors(self) -> WordVectors:
        """The center vectors, which are what skip-gram is trained for."""
        return WordVectors(self.config.words, self.center.weight.detach().float().cpu())
