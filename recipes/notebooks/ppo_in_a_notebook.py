# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # PPO with a reward you write yourself
#
# A language model is a policy: in the state "everything written so far" it chooses the next token. Reinforcement
# learning changes it so that what it writes earns more of a reward $RM(s)$, and a penalty keeps it near the
# pretrained model $p^{PT}$, which knows how to speak:
#
# $$R(s) \;=\; RM(s) \;-\; \beta \, \log \frac{p_\theta^{RL}(s)}{p^{PT}(s)} \tag{2.1}$$
#
# The second term is, on average, $\beta$ times the Kullback-Leibler divergence of the two models. Here the reward is
# seven lines of Python: it counts colour words. We train twice, with the penalty and almost without, and look at what
# the model says. Everything runs on a laptop's CPU, in about two minutes, without a download.
#
# This file is the source of the notebook: `jupytext --to ipynb ppo_in_a_notebook.py` makes the other from the one.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs the Hub
FAST = os.environ.get("HFCOURSE_FAST") == "1"  # a few steps, for the tests

# %%
import copy
import re
import tempfile

import matplotlib.pyplot as plt
import torch
from datasets import Dataset, disable_progress_bars
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from hfcourse import CausalLMConfig, CausalLMTrainer, PPOConfig, PPOTrainer
from hfcourse.tokenization import train_tokenizer
from hfcourse.world import load

disable_progress_bars()
set_seed(0)
folder = tempfile.mkdtemp()

# %% [markdown]
# ## A pretrained model
#
# `hfcourse.world` generates text about a small world of people, pets, jobs and colours. A tokenizer and a Llama of
# half a million parameters learn to write it.

# %%
documents = load("corpus", num_examples=500 if FAST else 8000)
tokenizer = train_tokenizer(documents["text"], vocab_size=400 if FAST else 768)
width = 32 if FAST else 128
pretrained = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
)
CausalLMTrainer(
    pretrained,
    CausalLMConfig(
        f"{folder}/pretrained",
        max_steps=20 if FAST else 300,
        per_device_train_batch_size=16,
        block_size=64,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        logging_steps=50,
        save_strategy="no",
    ),
    train_dataset=documents,
    processing_class=tokenizer,
).train()


# %% [markdown]
# ## A reward
#
# A reward function takes the completions of a batch (and the prompts, and every further column of the dataset) and
# returns one number for each. It need not be differentiable: the policy gradient asks only for its value.


# %%
COLOURS = {"red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink"}


def mentions_of_colour(completions, **columns):
    return [float(sum(word in COLOURS for word in re.findall("[a-z]+", text.lower()))) for text in completions]


mentions_of_colour(["Rosa often wears white clothes.", "The pet of Dario is a cat.", "red red red"])

# %% [markdown]
# ## PPO
#
# One round of `PPOTrainer`: it lets the policy finish a batch of prompts, asks for the rewards, spreads $R(s)$ over
# the tokens (the penalty on each, the reward on the last), lets a critic estimate how much better each token did than
# expected (generalized advantage estimation), and improves the policy by the clipped loss
#
# $$L_t = -\min\big(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon) A_t\big), \qquad
# \rho_t = \frac{p_\theta(a_t \mid s_t)}{p_{\theta_\text{old}}(a_t \mid s_t)}$$
#
# These are `hfcourse.rl` and `hfcourse.losses`, some ten lines each.

# %%
prompts = Dataset.from_dict({"prompt": [" ".join(text.split()[:2]) for text in documents["text"]]})


def train_ppo(beta):
    set_seed(1)
    trainer = PPOTrainer(
        copy.deepcopy(pretrained),
        mentions_of_colour,
        PPOConfig(
            f"{folder}/ppo",
            beta=beta,
            max_steps=8 if FAST else 160,  # optimizer steps: num_iterations of them for each batch of completions
            per_device_train_batch_size=16 if FAST else 64,
            num_iterations=4,
            max_completion_length=16,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=4,
            save_strategy="no",
        ),
        prompts,
        ref_model=copy.deepcopy(pretrained),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.model, [entry for entry in trainer.state.log_history if "reward" in entry]


BETAS = (0.2, 0.001)
trained = {beta: train_ppo(beta) for beta in BETAS}

# %% [markdown]
# ## What it learnt, and what it cost
#
# Left, the reward. Right, the distance to the pretrained model, in nats a completion. Almost without penalty the
# reward rises further, and so does the distance. (At exactly β = 0 the trainer keeps no reference model, and has no KL
# to log.)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for beta, (_, history) in trained.items():
    steps = [entry["step"] for entry in history]
    left.plot(steps, [entry["reward"] for entry in history], label=f"β = {beta:g}")
    right.plot(steps, [entry["kl_sequence"] for entry in history], label=f"β = {beta:g}")
left.set(title="colour words a completion", xlabel="optimizer step")
right.set(title="KL to the pretrained model (nats)", xlabel="optimizer step")
left.legend()
plt.show()


# %%
@torch.no_grad()
def write(model, prompt, num_samples=3):
    set_seed(2)
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    ids = model.generate(
        **inputs, do_sample=True, top_k=0, max_new_tokens=16, num_return_sequences=num_samples
    )  # the distribution that was trained: nothing cut off
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


models = {"pretrained": pretrained, **{f"PPO, β = {beta:g}": trained[beta][0] for beta in BETAS}}
for name, model in models.items():
    print(f"{name}:", *write(model.eval(), "Rosa has"), sep="\n    ")

# %% [markdown]
# With the penalty the model turns its sentences to colours. Without it hardly anything speaks for sentences, and the
# model finds out that the reward does not ask for one: the reward is *hacked*. The KL penalty does not make the reward
# right; it bounds how far a wrong reward can lead.
#
# **Exercises.** (1) The optimum of (2.1) is known: $\pi^*(s) \propto p^{PT}(s)\, e^{RM(s)/\beta}$. What does it become
# for $\beta \to 0$, and for $\beta \to \infty$? `hfcourse.rl` has it for problems small enough to list. (2) Write a
# reward that cannot be hacked by repetition, and see how the model hacks that one. (3) Set `num_iterations=1`: what do
# `ratio_at_step0` and `clip_ratio/region_mean` say, and why?
