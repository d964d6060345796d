"""A world so small that every answer can be listed: where a *trainer* is held against the exact optimum.

A tiny causal LM is the reference, five letters and EOS are its tokens, four of them an answer's length: 781 answers to
each of four prompts of unequal length. Rewards are known, so are π*(y|x) = π_ref(y|x) exp(r(x, y)/β) / Z(x) and its
objective J* = β log Z; whatever a trainer ends with is scored in nats by J* - J(π) = β KL(π ‖ π*).

    world = EnumerableWorld.make()
    trainer = PPOTrainer(world.policy(), world.reward, args, world.prompts(1024), processing_class=world.tokenizer)
    trainer.train()
    print(world.score(trainer.model))
"""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PhiConfig, PhiForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from hfcourse.rl import (
    enumerate_completions,
    enumerated_logits,
    enumerated_logps,
    expected_objective,
    optimal_objective,
    optimal_policy,
    sequence_kl,
)

PAD, EOS = "_", "."
LETTERS = "abcde"
VOCABULARY = {token: i for i, token in enumerate([PAD, EOS, *LETTERS])}
PROMPTS = ("a", "bc", "de", "abd")
# Rewards have this standard deviation under π_ref; with β = 0.5 the reference starts 0.72 nats from the optimum.
REWARD_STD = 0.68
# A finite -∞: the policy can never write the pad token, so that the answers that are listed are all there are.
NEVER = -1e4


@dataclass(frozen=True)
class EnumerableWorld:
    """Reference model, prompts, all answers and their rewards; tensors are over (4 prompts, 781 answers)."""

    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    completion_ids: Tensor  # (N, T)
    completion_mask: Tensor  # (N, T)
    rewards: Tensor  # (B, N), float64
    ref_logps: Tensor  # (B, N), float64
    beta: float

    @classmethod
    def make(cls, beta: float = 0.5, seed: int = 0, max_completion_length: int = 4) -> "EnumerableWorld":
        """The world of this seed: a random reference and random rewards. Leaves the global random state alone."""
        tokenizer, generator = _tokenizer(), torch.Generator().manual_seed(seed)
        letters = [i for token, i in VOCABULARY.items() if token != PAD]
        ids, mask = enumerate_completions(letters, VOCABULARY[EOS], max_completion_length)
        reference = _reference(seed)
        ref_logps = exact_logps(reference, tokenizer, ids, mask)
        return cls(reference, tokenizer, ids, mask, _rewards(ids, mask, ref_logps, generator), ref_logps, beta)

    # -- what a trainer is given -------------------------------------------------------------------------------------

    def policy(self) -> PreTrainedModel:
        """A fresh copy of the reference, to be trained."""
        return copy.deepcopy(self.reference)

    def prompts(self, num_rows: int) -> Dataset:
        """The prompts in turn, as a column `prompt`."""
        return Dataset.from_dict({"prompt": [PROMPTS[i % len(PROMPTS)] for i in range(num_rows)]})

    def reward(self, prompts: list[str], completion_ids: list[list[int]], **columns) -> list[float]:
        """r(x, y) of each row, as trainers call it; read from the token ids, for the text lacks its EOS."""
        return [self.table[prompt, tuple(ids)] for prompt, ids in zip(prompts, completion_ids, strict=True)]

    def preferences(self, num_pairs: int, seed: int = 0) -> Dataset:
        """Pairs of different answers drawn from the reference, the better one told by Bradley-Terry on the rewards.

        They are messages, under a chat template that adds nothing: TRL ends every *text* with EOS, also an answer
        that was cut before its own.
        """
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(len(PROMPTS), (2 * num_pairs,), generator=generator)
        pairs = self.ref_logps[x].exp().multinomial(2, replacement=True, generator=generator)
        first, second = self.rewards[x].gather(1, pairs).unbind(1)
        first_wins = torch.rand(len(x), generator=generator) < torch.sigmoid(first - second)
        pairs = pairs.where(first_wins.unsqueeze(1), pairs.flip(1))
        differ = (pairs[:, 0] != pairs[:, 1]).nonzero().flatten()[:num_pairs]
        chosen, rejected = ([self._texts[i] for i in column] for column in pairs[differ].T.tolist())
        columns = {"prompt": ("user", [PROMPTS[i] for i in x[differ].tolist()])}
        columns |= {"chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
        return Dataset.from_dict(
            {name: [[{"role": role, "content": text}] for text in texts] for name, (role, texts) in columns.items()}
        )

    # -- what came of it ---------------------------------------------------------------------------------------------

    def logps(self, model: PreTrainedModel) -> Tensor:
        """log π(y|x) (B, N) of every answer, float64."""
        return exact_logps(model, self.tokenizer, self.completion_ids, self.completion_mask)

    def optimum(self) -> Tensor:
        """log π*(y|x) (B, N) of the world's own β."""
        return self.tilted(self.beta)

    def tilted(self, beta: float) -> Tensor:
        """log π*(y|x) (B, N) of any β: the points of the frontier of reward against KL."""
        return optimal_policy(self.ref_logps, self.rewards, beta)

    def score(self, policy: PreTrainedModel | Tensor) -> dict[str, float]:
        """Means over the prompts, of a model or of log-probs (B, N).

        Returns:
            `kl_to_optimum`, KL(π ‖ π*); `regret`, J* - J(π), which is β times it; `reward`, E_π[r]; and
            `kl_to_reference`, KL(π ‖ π_ref).
        """
        logps = policy if isinstance(policy, Tensor) else self.logps(policy)
        regret = optimal_objective(self.ref_logps, self.rewards, self.beta) - expected_objective(
            logps, self.ref_logps, self.rewards, self.beta
        )
        values = {
            "kl_to_optimum": sequence_kl(logps, self.optimum()),
            "regret": regret,
            "reward": (logps.exp() * self.rewards).sum(-1),
            "kl_to_reference": sequence_kl(logps, self.ref_logps),
        }
        return {name: value.mean().item() for name, value in values.items()}

    @cached_property
    def _completions(self) -> list[tuple[int, ...]]:
        rows = zip(self.completion_ids, self.completion_mask, strict=True)
        return [tuple(ids[mask.bool()].tolist()) for ids, mask in rows]

    @cached_property
    def _texts(self) -> list[str]:
        token_of = {i: token for token, i in VOCABULARY.items()}
        return ["".join(token_of[i] for i in ids) for ids in self._completions]

    @cached_property
    def table(self) -> dict[tuple[str, tuple[int, ...]], float]:
        """r(x, y) by (prompt, token ids of the answer)."""
        keys = [(prompt, ids) for prompt in PROMPTS for ids in self._completions]
        return dict(zip(keys, self.rewards.flatten().tolist(), strict=True))


@torch.no_grad()
def exact_logps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """log π(y|x) (B, N) of every answer to every prompt, summed over its tokens in float64; without dropout."""
    prompts = tokenizer(list(PROMPTS), padding=True, padding_side="left", return_tensors="pt")
    was_training = model.training

    def logits_fn(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return model(**{name: x.to(model.device) for name, x in inputs.items()}).logits.double().cpu()

    model.eval()
    logits = enumerated_logits(
        logits_fn, prompts["input_ids"], prompts["attention_mask"], completion_ids, completion_mask
    )
    model.train(was_training)
    return enumerated_logps(logits, completion_ids, completion_mask).sum(-1)


def _rewards(ids: Tensor, mask: Tensor, ref_logps: Tensor, generator: torch.Generator) -> Tensor:
    """r(x, y) = Σ_t (u + ½ u_x)[y_t]: what is said counts, and to whom; standardised under π_ref."""
    size = len(VOCABULARY)
    worth = torch.randn(size, generator=generator, dtype=torch.float64)
    worth = worth + 0.5 * torch.randn(len(PROMPTS), size, generator=generator, dtype=torch.float64)
    rewards = (worth[:, ids] * mask).sum(-1)
    probs = ref_logps.exp()
    mean = (probs * rewards).sum(1, keepdim=True)
    std = (probs * (rewards - mean).square()).sum(1, keepdim=True).sqrt()
    return (rewards - mean) / std * REWARD_STD


def _reference(seed: int) -> PreTrainedModel:
    config = PhiConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=16, pad_token_id=VOCABULARY[PAD], eos_token_id=VOCABULARY[EOS],
        bos_token_id=VOCABULARY[EOS],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias[VOCABULARY[PAD]] = NEVER
    return model.eval()


def _tokenizer() -> PreTrainedTokenizerFast:
    """One character, one token."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=PAD, eos_token=EOS, padding_side="left")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return tokenizer
