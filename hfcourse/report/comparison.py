"""The course's closing table: four ways to make a pretrained model do what people want."""

HEADINGS = ("", "Prompting", "Instruction tuning", "RLHF (PPO)", "DPO")

ROWS = (
    (
        "Idea",
        "Show examples before the question; the model goes on in their manner",
        "Imitate good answers to many instructions",
        "Learn a reward from comparisons, then maximize it with a KL penalty",
        "Fit the comparisons directly; the policy is its own reward model",
    ),
    ("Changes parameters?", "No", "Yes", "Yes", "Yes"),
    ("Stage", "At use", "After pretraining", "After SFT, which is optional", "After SFT, which is optional"),
    (
        "Data",
        "A few examples in the context",
        "Instructions with answers",
        "Prompts; comparisons of the model's own answers",
        "Comparisons of answers, sampled once",
    ),
    (
        "Human labels",
        "A handful of demonstrations",
        "Thousands of written answers",
        "Comparisons, which are cheaper than answers and less noisy than scores",
        "The same comparisons",
    ),
    (
        "Compute",
        "None to train; every answer pays for a longer prompt",
        "A pass over the answers",
        "Generation and four models: policy, reference, reward, value",
        "A pass over the pairs with two models: policy and reference",
    ),
    (
        "Strengths",
        "Nothing to train; instantly changed",
        "Simple and stable; teaches form",
        "Learns from its own answers; any reward, also without a model of people",
        "Simple and stable; no reward model, no sampling",
    ),
    (
        "Weaknesses",
        "Bounded by the context; sensitive to wording and order",
        "Learns what writers forget or get wrong; costly answers",
        "Many parts and settings; a reward model can be hacked",
        "Answers are fixed beforehand; may push down both answers of a pair",
    ),
    (
        "Used for",
        "Quick trials; tasks with few examples",
        "Following instructions; a start for the next two",
        "Helpfulness, harmlessness, reasoning with checkable rewards",
        "Helpfulness and style, where pairs are at hand",
    ),
    (
        "Works",
        "GPT-3 (2005.14165), chain of thought (2201.11903)",
        "FLAN (2109.01652), T0 (2110.08207), Alpaca",
        "Ziegler et al. (1909.08593), InstructGPT (2203.02155), Llama 2 (2307.09288)",
        "Rafailov et al. (2305.18290), Zephyr (2310.16944), Llama 3 (2407.21783)",
    ),
)
