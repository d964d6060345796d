"""Answers that share their prompt's computation: every token sees what it saw in its own row, and nothing else."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hfcourse.models.reward_model import add_reward_reader
from hfcourse.models.shared_prefix import can_share_prefix, share_groups, share_pairs, share_prefix
from hfcourse.models.token_stats import add_token_stats_head
from hfcourse.models.value_head import add_value_head
from hfcourse.trainers.rollout import model_inputs, pad_rollout

SIZES = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)
GQA = dict(intermediate_size=64, num_key_value_heads=2, head_dim=8)
WINDOWS = dict(sliding_window=5, layer_types=["sliding_attention", "full_attention"])
MODELS = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **GQA)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, **GQA, sliding_window=5)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **GQA, **WINDOWS, final_logit_softcapping=3.0)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **GQA, **WINDOWS)),
}
# Prompt and answers of each pair; some begin alike, one is the other's beginning, one has no prompt, one is long.
PAIRS = [(3, 4, 2), (9, 1, 1), (20, 6, 11), (0, 3, 5), (7, 5, 5)]


def batch(pairs=PAIRS, seed=0, length=None):
    """(2B, T) input_ids, attention_mask, labels (-100 on the prompts), chosen first."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(4, 300, (n,), generator=generator)  # noqa: E731
    prompts = [draw(p) for p, _, _ in pairs]
    sides = [[torch.cat([x, draw(pair[side])]) for x, pair in zip(prompts, pairs, strict=True)] for side in (1, 2)]
    if pairs is PAIRS:
        sides[1][-1][:10] = sides[0][-1][:10]  # the last pair's answers begin with the same three tokens
    rows = sides[0] + sides[1]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    labels = ids.masked_fill(mask == 0, -100)
    for i, (p, _, _) in enumerate(pairs * 2):
        labels[i, :p] = -100
    return ids, mask, labels


def make(name, request):
    torch.manual_seed(0)
    return (MODELS[name] if name in MODELS else request.getfixturevalue(f"tiny_{name}"))().eval()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=6), min_size=3, max_size=3), min_size=1, max_size=3
    )
)
def test_every_token_sees_its_own_row_up_to_itself(groups):
    """The whole specification: where each token went, its position, and the places that it may look at."""
    rows = [torch.tensor(row) for group in groups for row in group]
    shape = (len(groups), 3, -1)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).view(shape)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True).view(shape)
    shared = share_prefix(ids, mask)
    width = shared.input_ids.shape[1]
    for g, group in enumerate(groups):
        used = set()
        for k, row in enumerate(group):
            places = [p - g * width for p in shared.place[g, k, : len(row)].tolist()]
            assert shared.input_ids[g, places].tolist() == row
            assert shared.position_ids[g, places].tolist() == list(range(len(row)))
            for t, place in enumerate(places):
                assert shared.allowed[g, 0, place].nonzero().flatten().tolist() == places[: t + 1]
            used |= set(places)
        alike = next((t for t in range(6) if len({tuple(row[: t + 1]) for row in group}) > 1), min(map(len, group)))
        alike = min(alike, *map(len, group))
        assert len(used) == sum(map(len, group)) - 2 * alike, "the common beginning is there once"
        assert shared.allowed[g, 0].any(-1).all(), "no softmax is empty"


def test_by_hand():
    """x x a a | x x b: one sequence x x a a b, positions 0 1 2 3 2."""
    shared = share_prefix(torch.tensor([[[5, 6, 7, 8], [5, 6, 9, 0]]]), torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 0]]]))
    assert shared.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert shared.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert shared.place.tolist() == [[[0, 1, 2, 3], [0, 1, 4, 0]]]
    assert shared.allowed[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


KINDS = [(name, attention) for name in ("llama", "gpt2", *MODELS) for attention in ("sdpa", "eager")]
KINDS.remove(("gemma2", "sdpa"))  # it caps its attention scores, which sdpa cannot


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_log_probs_and_gradients_are_the_plain_batchs(name, attention, request):
    model = make(name, request)
    model.set_attn_implementation(attention)
    ids, mask, labels = batch()
    assert can_share_prefix(model)
    add_token_stats_head(model)
    shared = share_pairs(ids, mask)
    assert shared.input_ids.shape[1] == 20 + 6 + 11
    stats, gradients = [], []
    for inputs in (dict(input_ids=ids, attention_mask=mask), {**shared.inputs_for(model), "place": shared.place}):
        stats.append(model(**inputs, labels=labels, token_stats=True))
        model.zero_grad()
        (stats[-1]["logps"].sum(1) * torch.arange(1.0, 11)).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for column in stats[0]:
        torch.testing.assert_close(stats[1][column], stats[0][column], atol=2e-5, rtol=1e-5, msg=column)
    scale = max(g.abs().max() for g in gradients[0].values())
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, atol=2e-6 * scale, rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("mistake", ["positions", "mask"])
def test_wrong_positions_and_wrong_masks_show(name, mistake, request):
    """Positions by place in the sequence; a mask by which the second answer sees the first."""
    model = make(name, request)
    ids, mask, labels = batch()
    add_token_stats_head(model)
    plain = model(input_ids=ids, attention_mask=mask, labels=labels, token_stats=True)["logps"]
    shared = share_pairs(ids, mask)
    if mistake == "positions":
        shared = shared._replace(position_ids=torch.arange(shared.input_ids.shape[1]).expand_as(shared.input_ids))
    else:
        shared = shared._replace(allowed=torch.ones_like(shared.allowed).tril())
    wrong = model(**shared.inputs_for(model), place=shared.place, labels=labels, token_stats=True)["logps"]
    assert (wrong - plain).abs().max() > 1e-2


def test_bf16_rounds_as_far_as_it_rounds_anyway(tiny_llama):
    """bf16 autocast: 0.0036 a token from the plain batch, which is 0.0138 from float32, as the folded one is."""
    model = tiny_llama(0, initializer_range=0.1).eval()
    ids, mask, labels = batch()
    add_token_stats_head(model)
    shared = share_pairs(ids, mask)
    folded_inputs = {**shared.inputs_for(model), "place": shared.place}
    exact = model(input_ids=ids, attention_mask=mask, labels=labels, token_stats=True)["logps"]
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(input_ids=ids, attention_mask=mask, labels=labels, token_stats=True)["logps"]
        folded = model(**folded_inputs, labels=labels, token_stats=True)["logps"]
    torch.testing.assert_close(folded, plain, atol=0.01, rtol=0)
    assert (folded - exact).abs().max() < 1.5 * (plain - exact).abs().max()


def test_lora(tiny_llama):
    model = get_peft_model(tiny_llama(0), LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    ids, mask, labels = batch()
    assert can_share_prefix(model.get_base_model())
    add_token_stats_head(model)
    shared = share_pairs(ids, mask)
    plain = model(input_ids=ids, attention_mask=mask, labels=labels, token_stats=True)
    folded = model(**shared.inputs_for(model), place=shared.place, labels=labels, token_stats=True)
    torch.testing.assert_close(folded["logps"], plain["logps"], atol=2e-5, rtol=1e-5)


def test_what_cannot_take_the_mask_is_found_out():
    """ALiBi counts keys, a state-space layer has no mask, flash attention takes none."""
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2))
    mamba = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, initializer_range=0.2))
    flash = MODELS["qwen3"]()
    flash.config._attn_implementation = "flash_attention_2"
    short = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=4, n_positions=6))
    assert [can_share_prefix(model.train()) for model in (bloom, mamba, flash, short)] == [False] * 4
    assert bloom.training, "the mode is put back"


def test_little_in_common_is_not_folded():
    ids, mask, _ = batch([(1, 20, 20), (1, 20, 19)])
    assert share_pairs(ids, mask) is None
    ids, mask, _ = batch([(9, 2, 2), (7, 3, 2)])
    assert share_pairs(ids, mask).input_ids.shape == (2, 13)
    assert share_pairs(ids.flip(1), mask.flip(1)) is None, "padded on the left"


def test_a_reward_is_read_where_it_is_asked_for(tiny_llama):
    """Also from a folded batch, and whatever the pad token is."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(0, num_labels=1, pad_token_id=7).config).eval()
    ids, mask, _ = batch()
    ends = mask.sum(1) - 1
    ids[torch.arange(10), ends] = 7  # transformers would read the token before
    alone = torch.stack(
        [model.score(model.model(ids[i : i + 1, : ends[i] + 1]).last_hidden_state)[0, -1] for i in range(10)]
    )
    add_reward_reader(model)
    shared = share_pairs(ids, mask)
    read_at = shared.place.gather(1, ends[:, None]).squeeze(1)
    folded = model(**shared.inputs_for(model), read_at=read_at).logits
    plain = model(input_ids=ids, attention_mask=mask, read_at=torch.arange(10) * ids.shape[1] + ends).logits
    torch.testing.assert_close(folded, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, alone, atol=1e-5, rtol=1e-5)
    assert (model(input_ids=ids, attention_mask=mask).logits - alone).abs().max() > 1e-2


# -- k completions of one prompt --------------------------------------------------------------------------------------

# Prompt, and its three completions: one token, one that is another's beginning, a prompt of one token, a long one.
GROUPS = [(9, (4, 1, 6)), (20, (3, 3, 8)), (1, (5, 2, 2)), (40, (7, 12, 2))]


def rollout(seed=0):
    """What a rollout trainer feeds its policy: prompts padded on the left, completions on the right."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(4, 300, (n,), generator=generator).tolist()  # noqa: E731
    prompts = [x for p, answers in GROUPS for x in [draw(p)] * len(answers)]
    completions = [draw(n) for _, answers in GROUPS for n in answers]
    completions[5][:3] = completions[4]
    batch = pad_rollout(prompts, completions, 0)
    return model_inputs({**batch, "attention_to_completion": batch["completion_mask"]})


def folded(model, inputs, change=lambda shared: shared):
    shared = change(share_groups(inputs["input_ids"], inputs["attention_mask"], 3, 32))
    assert shared.input_ids.shape == (4, 40 + 7 + 12 + 2)
    return {**shared.inputs_for(model), "place": shared.place, "labels": inputs["labels"]}


def actor_critic(model, value_model=None):
    """A policy whose critic says something, on its own trunk or through an adapter of its own."""
    torch.manual_seed(1)
    add_token_stats_head(model, temperature=0.8)
    add_value_head(model, value_model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "value_head" in name or "lora_" in name:
                parameter.normal_()
    return model


def test_a_group_by_hand():
    """· x x a a | · x x b ·, the first column padding: one sequence x x a a b, and where each token went."""
    ids, mask = torch.tensor([[0, 5, 6, 7, 8], [0, 5, 6, 9, 0]]), torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    shared = share_groups(ids, mask, 2, 32)
    assert shared.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert shared.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert shared.place.tolist() == [[0, 0, 1, 2, 3], [0, 0, 1, 4, 0]]


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_a_rollouts_statistics_and_gradients_are_the_plain_batchs(name, attention, request):
    """Log-probs, entropies and values of k completions, and the gradient of a loss of all three."""
    model = make(name, request)
    model.set_attn_implementation(attention)
    actor_critic(model)
    inputs, stats, gradients = rollout(), [], []
    weights = torch.randn(3, *inputs["labels"][:, 1:].shape, generator=torch.Generator().manual_seed(0))
    for own in (inputs, folded(model, inputs)):
        stats.append(model(**own, token_stats=True))
        model.zero_grad()
        loss = sum((w * stats[-1][n]).sum() for w, n in zip(weights, ("logps", "entropy", "values"), strict=True))
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    assert stats[0]["values"].abs().max() > 1
    for column in stats[0]:
        torch.testing.assert_close(stats[1][column], stats[0][column], atol=2e-5, rtol=1e-5, msg=column)
    scale = max(g.abs().max() for g in gradients[0].values())
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, atol=2e-6 * scale, rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("value_model", [None, "adapter"])
def test_a_rollout_with_lora(value_model, tiny_llama):
    model = actor_critic(get_peft_model(tiny_llama(0), LoraConfig(r=2, task_type="CAUSAL_LM")).eval(), value_model)
    inputs = rollout()
    plain, shared = (model(**own, token_stats=True) for own in (inputs, folded(model.get_base_model(), inputs)))
    for column in plain:
        torch.testing.assert_close(shared[column], plain[column], atol=2e-5, rtol=1e-5, msg=column)


def sees_its_siblings(shared):
    return shared._replace(allowed=torch.ones_like(shared.allowed).tril())


def counts_its_siblings(shared):
    return shared._replace(position_ids=torch.arange(shared.input_ids.shape[1]).expand_as(shared.input_ids))


def forgets_the_left_padding(shared):
    return shared._replace(place=shared.place.roll(1, 1))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("mistake", [sees_its_siblings, counts_its_siblings, forgets_the_left_padding])
def test_a_wrong_fold_of_a_rollout_shows(name, mistake, request):
    model, inputs = actor_critic(make(name, request)), rollout()
    plain, wrong = (model(**own, token_stats=True) for own in (inputs, folded(model, inputs, mistake)))
    for column in ("logps", "entropy", "values"):
        assert (wrong[column] - plain[column]).abs().max() > 1e-2, column


def test_a_rollout_in_bf16_rounds_as_far_as_it_rounds_anyway(tiny_llama):
    """bf16 autocast: 0.0025 a token from the plain batch, which is 0.0097 from float32, as the folded one is."""
    model, inputs = actor_critic(tiny_llama(0, initializer_range=0.1).eval()), rollout()
    exact = model(**inputs, token_stats=True)["logps"]
    with torch.autocast("cpu", torch.bfloat16):
        plain, shared = (model(**own, token_stats=True)["logps"] for own in (inputs, folded(model, inputs)))
    torch.testing.assert_close(shared, plain, atol=0.01, rtol=0)
    assert (shared - exact).abs().max() < 1.5 * (plain - exact).abs().max()


@pytest.mark.parametrize(("prompt", "completion", "is_worth_it"), [(100, 10, True), (100, 200, False), (1, 5, False)])
def test_siblings_are_keys_too_and_many_long_ones_cost_more_than_the_prompt(prompt, completion, is_worth_it):
    """Width 32, 8 completions, by hand: 180 tokens of 6 · 32 + 180 instead of 880 of 6 · 32 + 110, a quarter; 1700 of
    192 + 1700 instead of 2400 of 192 + 300, 2.7 times it; 41 of 192 + 41 instead of 48 of 192 + 6, 1.005 of it."""
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(4, 300, (8, completion), generator=generator)
    ids = torch.cat([torch.full((8, prompt), 5), answers], 1)
    assert (share_groups(ids, torch.ones_like(ids), 8, 32) is not None) == is_worth_it
