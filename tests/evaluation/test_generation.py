"""Batched generation equals generation one by one; samples follow the model; what a completion is."""

import math
from collections import Counter

import pytest
import torch

from hfcourse.errors import InputError
from hfcourse.evaluation.generation import generate, tokenize_prompts

PROMPTS = ["The red fox", "Mara lives in", "What is the colour of the door? The door is", "Two"]


@pytest.fixture(params=["llama", "gpt2"])
def model(request, tiny_llama, tiny_gpt2):
    return {"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param](0)


def greedy_alone(model, tokenizer, prompt, max_new_tokens):
    """Token by token, without cache, padding or batch."""
    ids = tokenizer(prompt)["input_ids"]
    written = []
    model.eval()
    while len(written) < max_new_tokens and tokenizer.eos_token_id not in written:
        with torch.no_grad():
            written.append(model(torch.tensor([ids + written])).logits[0, -1].argmax().item())
    return written


def test_greedy_batches_equal_one_by_one(model, tiny_tokenizer):
    """Left padding, sorting and the cache change nothing, with rotary and with absolute positions."""
    completions = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=6, temperature=0, batch_size=3)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert completion.ids == greedy_alone(model, tiny_tokenizer, prompt, 6)
        assert completion.prompt_ids == tiny_tokenizer(prompt)["input_ids"]
        assert completion.text == tiny_tokenizer.decode(completion.ids, skip_special_tokens=True)


def test_samples_follow_the_models_distribution(tiny_llama, tiny_tokenizer):
    """2000 first tokens at temperature 2 against softmax(logits / 2): Pearson's χ² over the likeliest tokens."""
    model = tiny_llama(0).eval()
    draws = generate(model, tiny_tokenizer, ["The red fox"] * 2000, 1, temperature=2.0, batch_size=500)
    with torch.no_grad():
        logits = model(torch.tensor([tiny_tokenizer("The red fox")["input_ids"]])).logits[0, -1]
    expected = 2000 * (logits / 2.0).softmax(-1)
    counts = Counter(completion.ids[0] for completion in draws)
    likely = [token for token in range(len(expected)) if expected[token] > 10]
    chi_squared = sum((counts[t] - expected[t].item()) ** 2 / expected[t].item() for t in likely)
    assert chi_squared < len(likely) + 4 * math.sqrt(2 * len(likely))


def test_the_seed_decides_and_the_global_state_stays(tiny_llama, tiny_tokenizer):
    model = tiny_llama(0).train()
    state = torch.random.get_rng_state()
    first = generate(model, tiny_tokenizer, PROMPTS, 5, seed=1)
    assert generate(model, tiny_tokenizer, PROMPTS, 5, seed=1) == first
    assert generate(model, tiny_tokenizer, PROMPTS, 5, seed=2) != first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training


def forced(model, tokens):
    """The model writes these tokens one after another, whatever it reads: it looks at its position alone."""

    def forward(input_ids, **kwargs):
        output = type(model).forward(model, input_ids, **kwargs)
        step = forward.steps
        forward.steps += 1
        output.logits[:] = -1e4
        output.logits[..., tokens[min(step, len(tokens) - 1)]] = 0.0
        return output

    forward.steps = 0
    model.forward = forward
    return model


def test_eos_ends_a_completion_and_belongs_to_it(tiny_llama, tiny_tokenizer):
    fox = tiny_tokenizer(" fox")["input_ids"]
    model = forced(tiny_llama(0), [*fox, tiny_tokenizer.eos_token_id])
    (completion,) = generate(model, tiny_tokenizer, ["The red"], 10, temperature=0)
    assert completion.ids == [*fox, tiny_tokenizer.eos_token_id]
    assert completion.text == " fox"
    assert completion.finished


def test_the_limit_is_no_end(tiny_llama, tiny_tokenizer):
    fox = tiny_tokenizer(" fox")["input_ids"]
    (completion,) = generate(forced(tiny_llama(0), [*fox, fox[-1]]), tiny_tokenizer, ["The"], len(fox), temperature=0)
    assert completion.ids == fox
    assert not completion.finished


def test_a_stop_string_ends_a_completion(tiny_llama, tiny_tokenizer):
    """Its tokens belong to the completion's ids (the model chose them), not to its text; no padding follows."""
    ids = tiny_tokenizer(" fox\n\nThe")["input_ids"]
    (completion,) = generate(forced(tiny_llama(0), ids), tiny_tokenizer, ["The"], 20, temperature=0, stop="\n\n")
    assert completion.text == " fox"
    assert completion.finished
    assert tiny_tokenizer.decode(completion.ids).startswith(" fox\n\n")
    assert len(completion.ids) <= len(ids)
    assert tiny_tokenizer.pad_token_id not in completion.ids


def test_padding_with_eos_hides_no_eos_of_the_prompt(tiny_llama, tiny_tokenizer):
    """A prompt that holds EOS, batched with a longer one, where padding is done with EOS."""
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    prompts = [f"fox{tokenizer.eos_token}red", "What is the colour of the door?"]
    model = tiny_llama(0)
    together = generate(model, tokenizer, prompts, 4, temperature=0)
    assert [c.ids for c in together] == [greedy_alone(model, tokenizer, prompt, 4) for prompt in prompts]


def test_chat_prompts_end_where_the_assistant_speaks(tiny_tokenizer):
    (ids,) = tokenize_prompts(tiny_tokenizer, [[{"role": "user", "content": "The red fox"}]])
    assert tiny_tokenizer.decode(ids).endswith("The red fox<|im_end|>\n<|im_start|>assistant\n")


def test_prompts_that_cannot_be_answered(tiny_llama, tiny_tokenizer):
    model = tiny_llama(0, max_position_embeddings=16)
    with pytest.raises(InputError, match="row 1 has no tokens"):
        generate(model, tiny_tokenizer, ["fox", ""], 4)
    with pytest.raises(InputError, match="exceed the model's 16 positions"):
        generate(model, tiny_tokenizer, ["fox", "fox " * 16], 4)
    assert generate(model, tiny_tokenizer, [], 4) == []


def test_an_encoder_decoder_token_by_token(tiny_tokenizer):
    """Without cache, padding or batch; the encoder reads the prompt with EOS behind it."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = dict(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4, initializer_factor=3.0)
    ids = dict(decoder_start_token_id=tiny_tokenizer.pad_token_id, eos_token_id=tiny_tokenizer.eos_token_id)
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tiny_tokenizer), **shape, **ids)).eval()
    completions = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=6, temperature=0, batch_size=3)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        read = torch.tensor([[*tiny_tokenizer(prompt)["input_ids"], tiny_tokenizer.eos_token_id]])
        written = []
        while len(written) < 6 and tiny_tokenizer.eos_token_id not in written:
            begun = torch.tensor([[tiny_tokenizer.pad_token_id, *written]])
            with torch.no_grad():
                written.append(model(input_ids=read, decoder_input_ids=begun).logits[0, -1].argmax().item())
        assert completion.ids == written
