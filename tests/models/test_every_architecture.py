"""Log-probs and rewards are right for every architecture that transformers maps, found out by trying them all.

Of each a model of some thousand weights is made and asked twice. What cannot be made small by a few names, or wants
other inputs than tokens, is left out; how many are not, and which must not be, is stated.
"""

import signal

import pytest
import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from hfcourse.models.reward_model import add_reward_reader
from hfcourse.models.selected_positions import head_reads_only
from hfcourse.models.token_stats import add_token_stats_head

SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict(num_experts_per_tok=2, moe_intermediate_size=16, vocab_size=99, num_labels=1),
    **dict(pad_token_id=0, bos_token_id=1, eos_token_id=2),
}
IDS = torch.randint(3, 99, (3, 12), generator=torch.Generator().manual_seed(0))
MAX_PARAMETERS, SECONDS = 2e7, 20


def small(model_class, config_class, **sizes):
    config = config_class()
    for name, value in (SMALL | sizes).items():
        if hasattr(config, name):
            try:
                setattr(config, name, value)
            except (AttributeError, NotImplementedError):
                continue
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[0], "full_attention" if "full_attention" in kinds else kinds[1]]
    with torch.device("meta"):
        if sum(p.numel() for p in model_class(config).parameters()) > MAX_PARAMETERS:
            raise ValueError("cannot be made small by these names")
    torch.manual_seed(0)
    return model_class(config).eval()


def one_of(model_class, config_class, **sizes):
    """A model that runs, or None."""
    for width_of_heads in ({"head_dim": 8}, {}):
        try:
            model = small(model_class, config_class, **width_of_heads, **sizes)
            model(input_ids=IDS, use_cache=False) if "is_decoder" in sizes else model(input_ids=IDS)
        except Exception:  # whatever a configuration says to sizes that are not its own
            continue
        return model
    return None


def move(model) -> None:
    """As training would: a bias of 0 or a norm of 1 hides whether it is there."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) / 10)


def log_probs(model):
    """What SFT, DPO, PPO and REINFORCE learn from, against the logits."""
    add_token_stats_head(model)
    model(input_ids=IDS, labels=IDS, token_stats=True)  # how the head is read is settled before it is trained
    move(model)
    expected = model(input_ids=IDS, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    return model(input_ids=IDS, labels=IDS, token_stats=True)["logps"], expected.gather(-1, IDS[:, 1:, None])[..., 0]


def hidden_positions(model):
    """The head on the hidden positions alone, as in `MaskedLMTrainer`, against all logits."""
    move(model)
    hidden = IDS % 2 == 0
    with head_reads_only(model, hidden) as selection:
        logits = selection.rows(model(input_ids=IDS).logits)
    return logits, model(input_ids=IDS).logits[hidden]


def rewards(model):
    """The reward read at the last token, as in `RewardTrainer`, against the model's own."""
    move(model)
    own, last = model(input_ids=IDS).logits, torch.arange(1, 4) * 12 - 1
    return (model(input_ids=IDS, read_at=last).logits if add_reward_reader(model) else own), own


KINDS = {
    "log_probs": (log_probs, MODEL_FOR_CAUSAL_LM_MAPPING, {"is_decoder": True}),
    "hidden_positions": (hidden_positions, MODEL_FOR_MASKED_LM_MAPPING, {}),
    "rewards": (rewards, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, {}),
}
TRIED = {"log_probs": 135, "hidden_positions": 40, "rewards": 90}
NAMES = {
    "log_probs": "Llama Mistral Mixtral Qwen2 Qwen3 Qwen3Moe Gemma Gemma2 Gemma3Text Phi3 Olmo2 Granite Cohere OPT "
    "Bloom GPTNeoX Falcon SmolLM3 GptOss ModernBertDecoder Bart",
    "hidden_positions": "Bert Roberta XLMRoberta DistilBert Albert Electra DebertaV2 ModernBert",
    "rewards": "Llama Mistral Qwen2 Qwen3 Gemma2 GPT2 OPT Bert ModernBert",
}


def too_long(*_):
    raise TimeoutError


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_architecture(kind):
    compare, mapping, sizes = KINDS[kind]
    right, wrong = set(), {}
    signal.signal(signal.SIGALRM, too_long)
    for config_class, classes in mapping.items():
        for model_class in classes if isinstance(classes, tuple) else (classes,):
            signal.alarm(SECONDS)
            model = one_of(model_class, config_class, **sizes)
            signal.alarm(0)
            if model is None:
                continue
            name = config_class.__name__.removesuffix("Config")
            if name == "ProphetNet":  # predicts several tokens at each place: an error, not a wrong number
                continue
            ours, its = compare(model)
            if torch.allclose(ours, its, atol=1e-4, rtol=1e-4):
                right.add(name)
            else:
                wrong[name] = (ours - its).abs().max().item()
    assert wrong == {}
    assert len(right) >= TRIED[kind]
    assert set(NAMES[kind].split()) - right == set()
