"""Finetune on tasks: an encoder with a head, or any task as text to text with an encoder-decoder or a decoder.

    accelerate launch recipes/finetune.py --config recipes/configs/finetune/t5-3m_world.yaml
    python recipes/finetune.py --model_name_or_path my_bert --dataset_name reviews.csv --output_dir my_classifier
    python recipes/finetune.py --model_name_or_path my_llama --dataset_name tasks.jsonl --template flan \\
        --output_dir my_model --eval_strategy epoch --dataset_test_split test

| columns                                                   | what is trained                                         |
|-----------------------------------------------------------|---------------------------------------------------------|
| `text`, `label` (number or name), perhaps `text_pair`     | a head of one score a class                             |
| `input` and `target`, or `prompt` and `completion`, or a --template's | text to text: the target is learnt          |

What to watch: `eval_accuracy` and `eval_f1_macro` of classes; of texts, which are generated at each evaluation,
`eval_exact_match`, `eval_f1`, `eval_rougeL` and `eval_bleu`, and the first of these for each `task`.
"""

from dataclasses import dataclass, field

from hfcourse.pipeline.benchmarks import EvalTasksArguments, add_eval_tasks
from hfcourse.pipeline.finetuning import add_text_metrics, class_names, load_classifier, numbered
from hfcourse.pipeline.instruction_data import MixtureArguments, load_instructions
from hfcourse.pipeline.launch import ScriptArguments, load_tokenizer, parse, recipe, train_and_save
from hfcourse.pipeline.load_model import load_generator


@dataclass
class AnswerArguments:
    _argument_group_name = "generated answers"

    max_completion_length: int = field(default=48, metadata={"help": "Tokens an answer may have."})


def classifier(splits, training_args, model_args):
    """An encoder with a head, and its trainer."""
    import numpy as np
    from trl import get_peft_config

    from hfcourse import ClassificationTrainer
    from hfcourse.metrics import class_metrics

    model_args.lora_task_type = "SEQ_CLS"
    names = class_names(splits)
    return ClassificationTrainer(
        load_classifier(model_args, names),
        training_args,
        train_dataset=numbered(splits[0], names),
        eval_dataset=splits[1] and numbered(splits[1], names),
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        compute_metrics=lambda p: class_metrics(np.argmax(p.predictions, -1).tolist(), p.label_ids.tolist()),
        peft_config=get_peft_config(model_args),
    )


def writer(splits, training_args, model_args, answers):
    """An encoder-decoder or a decoder, and its trainer, which generates at each evaluation."""
    from trl import get_peft_config

    from hfcourse import TextToTextTrainer

    model = load_generator(model_args)
    if model.config.is_encoder_decoder:
        model_args.lora_task_type = "SEQ_2_SEQ_LM"
    trainer = TextToTextTrainer(
        model,
        training_args,
        train_dataset=splits[0],
        eval_dataset=splits[1],
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        peft_config=get_peft_config(model_args),
    )
    if splits[1] is not None:
        add_text_metrics(trainer, splits[1], answers.max_completion_length)
    return trainer


def main():
    from transformers import set_seed
    from trl import ModelConfig

    from hfcourse import TextToTextConfig

    script_args, training_args, model_args, mixture, benchmarks, answers = parse(
        *(ScriptArguments, TextToTextConfig, ModelConfig, MixtureArguments, EvalTasksArguments, AnswerArguments),
        description=__doc__,
    )
    splits = load_instructions(script_args, mixture, training_args, keep_task=True)
    set_seed(training_args.seed)  # a head's weights are drawn when it is made
    is_classes = "label" in next(iter(splits[0]))
    trainer = classifier(splits, training_args, model_args) if is_classes else None
    trainer = trainer or writer(splits, training_args, model_args, answers)
    add_eval_tasks(trainer, benchmarks)
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
