"""What every method that learns from its own completions is told: batches, rollouts, sampling."""

from dataclasses import dataclass, field

import trl
from transformers import GenerationConfig

from hfcourse.errors import InputError

# The log-probs that the loss sees are those of softmax(logits / temperature). A sampler that also cuts or shifts the
# distribution draws from another policy, and the ratio of the two would no longer be 1.
NEUTRAL_SAMPLING = {"top_p": (1.0,), "top_k": (0, None), "min_p": (None, 0.0), "repetition_penalty": (1.0,)}
# What else `generate` can do to the distribution, and the value at which it does nothing, beside None.
WARPERS = {
    "min_p": 0.0, "top_h": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "min_new_tokens": 0,
    "min_length": 0, "no_repeat_ngram_size": 0, "bad_words_ids": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "sequence_bias": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None, "guidance_scale": 1.0, "watermarking_config": None, "num_beams": 1,
    "penalty_alpha": None, "dola_layers": None,
}  # fmt: skip
SAID_BY_THE_CONFIG = ("temperature", "top_p", "top_k", "repetition_penalty", "do_sample")
OF_VLLM = ("presence_penalty", "frequency_penalty", "min_tokens", "logit_bias", "bad_words", "allowed_token_ids")


def check_generation_config(generation_config: GenerationConfig) -> None:
    """Raises InputError where a model brings along what changes the distribution: `generate` reads it there too."""
    for name, neutral in WARPERS.items():
        value = getattr(generation_config, name, None)
        if value is not None and value != neutral:
            raise InputError(
                f"generation_config: the model's own {name}={value} would change the distribution; take it out of "
                f"generation_config.json, or set model.generation_config.{name} = None"
            )


@dataclass
class RolloutConfig(trl.RLOOConfig):
    """`trl.RLOOConfig` for methods that need no group of completions a prompt: `num_generations` may be 1.

    One rollout is `generation_batch_size` = `per_device_train_batch_size` × processes × `steps_per_generation`
    completions. It serves `num_iterations` epochs of `steps_per_generation` / `gradient_accumulation_steps` updates.
    """

    num_generations: int | None = field(
        default=1, metadata={"help": "Completions sampled for each prompt of a rollout."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "Turn dropout off: with it, the ratio of a policy to itself is not 1."}
    )

    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Longer prompts lose their beginning. Unset: a prompt that leaves no room for its completion in "
            "the model's positions is an error."
        },
    )
    stop_tokens: list[str] | None = field(
        default=None, metadata={"help": "Tokens that end a completion beside EOS, e.g. . (a sentence)."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Subtracted from the score of a completion that was cut before its end."}
    )
    num_centering_samples: int = field(
        default=0,
        metadata={
            "help": "Subtract from each reward its mean on so many completions of the untrained policy (0: on none), "
            "so that a reward model's arbitrary zero is the policy that training starts from."
        },
    )
    target_kl: float | None = field(
        default=None,
        metadata={"help": "Move beta so that the KL of a completion, in nats, comes to this. Unset: beta is fixed."},
    )
    kl_horizon: int = field(
        default=10_000, metadata={"help": "Completions in which the adaptive controller moves beta by a fifth."}
    )

    shared_prefix: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the prompt once for its num_generations completions, which then stay in one micro-batch, "
            "so per_device_train_batch_size must be a multiple. Unset: where the model's attention can; True warns "
            "where it cannot, and where value_model is a model of its own. The log-probs are the same to rounding."
        },
    )

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps that one rollout serves."""
        return self.num_iterations * self.steps_per_generation // self.gradient_accumulation_steps

    def __post_init__(self):
        # RLOO's own checks end with "at least 2 generations"; what else it checks is checked here.
        super(trl.RLOOConfig, self).__post_init__()
        self._read_padding()
        self._size_rollouts()
        self._refuse_what_is_not_supported()

    def _read_padding(self):
        """As in RLOO: "auto" pads on devices that compile once a shape; the command line passes numbers as text."""
        if self.pad_to_multiple_of == "auto":
            self.pad_to_multiple_of = 128 if self.device.type == "neuron" else None
        elif isinstance(self.pad_to_multiple_of, str):
            self.pad_to_multiple_of = int(self.pad_to_multiple_of)

    def _size_rollouts(self):
        batch = self.per_device_train_batch_size * self.world_size
        if self.generation_batch_size is not None and self.steps_per_generation is not None:
            raise InputError("generation_batch_size and steps_per_generation say the same thing: set one of them")
        if self.generation_batch_size is not None:
            self._require_multiple("generation_batch_size", self.generation_batch_size, "the global batch", batch)
            self.steps_per_generation = self.generation_batch_size // batch
        elif self.steps_per_generation is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        self.generation_batch_size = batch * self.steps_per_generation
        self._require_multiple(
            "generation_batch_size", self.generation_batch_size, "num_generations", self.num_generations
        )
        self._require_multiple(
            "steps_per_generation",
            self.steps_per_generation,
            "gradient_accumulation_steps",
            self.gradient_accumulation_steps,
        )

    def _require_multiple(self, name: str, value: int, of: str, unit: int):
        if value % unit:
            raise InputError(f"{name}={value} must be a multiple of {of} ({unit}); change one of them")

    def _refuse_what_is_not_supported(self):
        for name, neutral in NEUTRAL_SAMPLING.items():
            if getattr(self, name) not in neutral:
                raise InputError(f"{name}: sampling may only be changed by temperature; leave {name} unset")
        warped = {*WARPERS, *SAID_BY_THE_CONFIG, *OF_VLLM} & set(self.generation_kwargs or ())
        if warped:
            raise InputError(
                f"generation_kwargs: {sorted(warped)} would change the distribution; use temperature alone"
            )
        if self.auto_find_batch_size:
            raise InputError(
                "auto_find_batch_size: would change the rollout's size; lower per_device_train_batch_size"
            )
        if self.sync_ref_model:
            raise InputError("sync_ref_model: the reference stays what the KL is measured from; unset it")
        if self.epsilon_high is not None:
            raise InputError("epsilon_high: the clip is symmetric here; use epsilon")
        if self.target_kl is not None and not (self.target_kl > 0 and self.beta > 0):
            raise InputError(
                f"target_kl={self.target_kl}, beta={self.beta}: the controller scales beta, both must be > 0"
            )
        if self.use_vllm and self.stop_tokens:
            raise InputError('stop_tokens: with vLLM pass generation_kwargs={"stop_token_ids": [...]} instead')
