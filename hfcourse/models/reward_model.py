"""Reward models: sequence classifiers with one label. How a prompt and its answer become one number."""

import functools
import math
import types
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.utils import load_peft_weights
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from trl.trainer.reward_trainer import suppress_seqcls_warning

from hfcourse.errors import InputError
from hfcourse.models.adapters import HEAD, REWARD_MEAN, is_reward_adapter, read_reward_mean


def spare_pad_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """A token to pad with that can never be the last token of an answer.

    transformers reads the reward at the last token that is *not* the pad token, whatever the attention mask says.
    Where padding is done with EOS, that is the token before the EOS, or before a whole run of them. Any other special
    token does, for it never ends an answer.

    Raises:
        InputError: the tokenizer has no special token but EOS.
    """
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if pad is not None and pad != eos:
        return pad
    named_pad = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special and "pad" in str(t).lower()]
    candidates = (*named_pad, tokenizer.unk_token, tokenizer.bos_token, *tokenizer.all_special_tokens)
    spare = [token for token in candidates if token not in (None, eos)]
    if not spare:
        raise InputError("pad_token: the tokenizer has none beside EOS; add one with add_special_tokens, then resize")
    return spare[0]


def add_reward_reader(model: torch.nn.Module) -> bool:
    """Teach a sequence classifier a second forward: `model(**inputs, read_at=places)`.

    It reads the reward at places (N,), indices into B·T, whatever the pad token is; only they meet the head. Without
    the keyword nothing changes. It lives in `forward` because DDP and FSDP follow a model through its `forward` alone.

    Returns:
        Whether the model could be taught. An encoder reads the whole text by a head of its own (BERT's pooler); what
        has a layer named `score` reads one place, and nothing stands between that and the hidden states.
    """
    model = model.get_base_model() if hasattr(model, "peft_config") else model
    if not hasattr(model, "score"):
        return False
    model_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, read_at=None, **kwargs):
        if read_at is None:
            return model_forward(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(hidden.flatten(0, 1)[read_at]))

    model.forward = types.MethodType(forward, model)
    return True


def render(tokenizer: PreTrainedTokenizerBase, prompt, completion, finished: bool) -> str:
    """The text that is scored, as in training: an EOS (or the template's end of turn) only where the answer ended."""
    if isinstance(prompt, list):
        return tokenizer.apply_chat_template(prompt + completion, tokenize=False, continue_final_message=not finished)
    ends = not finished or completion.endswith(tokenizer.eos_token)
    return prompt + completion + ("" if ends else tokenizer.eos_token)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list,
    completions: list,
    finished: list[bool] | None = None,
    batch_size: int = 32,
) -> list[float]:
    """Rewards RM(x, y) of completions, in their order; each is independent of the others in its batch.

    The mean of the model's heads, less `config.reward_mean`, the mean over reference samples, where it was measured
    ([`hfcourse.trainers.reward_trainer`]).

    Args:
        model: `AutoModelForSequenceClassification` with one label, or one a head of an ensemble. Used without dropout.
        tokenizer: its tokenizer.
        prompts: texts, or conversations (lists of messages).
        completions: texts, or lists with the assistant's message.
        finished: whether each completion ended by itself; all, when not given.
        batch_size: rows a forward pass; rows of like length go together.

    Raises:
        InputError: a reward is NaN or infinite, which would poison a policy or a mean; or a row has more tokens than
            the model has positions, for nothing is cut.
    """
    by_head = score_heads(model, tokenizer, prompts, completions, finished, batch_size)
    return [sum(heads) / len(heads) for heads in by_head]


@torch.no_grad()
def score_heads(model, tokenizer, prompts, completions, finished=None, batch_size: int = 32) -> list[list[float]]:
    """[`score`] of every head, for each completion."""
    chat = bool(prompts) and isinstance(prompts[0], list)
    finished = [True] * len(prompts) if finished is None else finished
    texts = [render(tokenizer, *row) for row in zip(prompts, completions, finished, strict=True)]
    ids = tokenizer(texts, add_special_tokens=not chat)["input_ids"] if texts else []
    _require_room(ids, model.config)
    pad_id = tokenizer.convert_tokens_to_ids(spare_pad_token(tokenizer))
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rewards: list[list[float]] = [[]] * len(ids)
    mean = getattr(model.config, "reward_mean", None) or 0.0
    was_training, saved_pad_id = model.training, model.config.pad_token_id
    model.eval()
    model.config.pad_token_id = pad_id
    for start in range(0, len(ids), batch_size):
        rows = by_length[start : start + batch_size]
        tensors = [torch.tensor(ids[i]) for i in rows]
        input_ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in tensors], batch_first=True)
        logits = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for i, heads in zip(rows, logits.float().tolist(), strict=True):
            rewards[i] = [reward - mean for reward in heads]
    model.config.pad_token_id = saved_pad_id
    model.train(was_training)
    _require_finite(rewards, model.config._name_or_path)
    return rewards


def _require_room(rows: list[list[int]], config) -> None:
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    for i, ids in enumerate(rows if limit else ()):
        if len(ids) > limit:
            raise InputError(
                f"reward model: row {i} of the batch has {len(ids)} tokens, which exceed its {limit} positions; "
                "shorten the prompt: the end of an answer is never cut"
            )


def _require_finite(rewards: list[list[float]], path: str) -> None:
    for i, heads in enumerate(rewards):
        for reward in heads:
            if not math.isfinite(reward):
                raise InputError(
                    f"reward model '{Path(path).name}': row {i} of the batch got {reward}; it must be finite"
                )


def load_reward_model(
    path: str, dtype: str | None = "auto", attn_implementation: str | None = None, num_heads: int | None = None
) -> PreTrainedModel:
    """A reward model: a sequence classifier with a label a head, its heads new where `path` is a causal LM.

    The folder of a reward model's adapter brings its base; what is returned is merged, and read without PEFT.

    Args:
        num_heads: of a new one; one that is saved has the heads that it has. One, when not given.

    Raises:
        InputError: `path` is neither a folder with a model nor a Hub id.
    """
    options = {"dtype": dtype or "auto", "attn_implementation": attn_implementation}
    try:
        if is_reward_adapter(path):
            return _load_adapter(path, options)
        config = AutoConfig.from_pretrained(path)
        is_classifier = "SequenceClassification" in str(config.architectures)
        options["num_labels"] = num_heads or (config.num_labels if is_classifier else 1)
        with suppress_seqcls_warning():
            return AutoModelForSequenceClassification.from_pretrained(path, **options)
    except (OSError, ValueError) as e:
        raise InputError(f"reward model: no model in '{path}': {str(e).splitlines()[0]}") from e


def _load_adapter(path: str, options: dict) -> PreTrainedModel:
    heads = [weight for name, weight in load_peft_weights(path, device="cpu").items() if name.endswith(HEAD)]
    if not heads:
        raise InputError(f"reward model: the adapter in '{path}' has no {HEAD}; was it saved by a reward trainer?")
    options["num_labels"] = len(heads[0])
    with suppress_seqcls_warning():
        base = AutoModelForSequenceClassification.from_pretrained(
            PeftConfig.from_pretrained(path).base_model_name_or_path, **options
        )
    model = PeftModel.from_pretrained(base, path).merge_and_unload()
    model.config.reward_mean, model.config._name_or_path = read_reward_mean(path), path
    return model


def merge_adapter(trainer: Trainer) -> None:
    """Turn the adapter that a reward trainer saved in `output_dir` into an ordinary reward-model folder.

    A reward model is only ever read: merged, it loads everywhere without PEFT, its head included.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "peft_config") and trainer.args.should_save:
        folder = Path(trainer.args.output_dir)
        model.merge_and_unload().save_pretrained(folder)
        for name in ("adapter_config.json", "adapter_model.safetensors", REWARD_MEAN):
            (folder / name).unlink(missing_ok=True)
