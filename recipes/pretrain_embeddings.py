"""Pretrain word embeddings alone: skip-gram with negative sampling (word2vec).

    accelerate launch recipes/pretrain_embeddings.py --config recipes/configs/pretrain_embeddings/skipgram_world.yaml
    python recipes/pretrain_embeddings.py --dataset_name books.txt --lowercase true --output_dir my_vectors \\
        --neighbours_of river king --analogies_file questions-words.txt
    python recipes/pretrain_embeddings.py --dataset_name books.txt --tokenizer_name_or_path my_model \\
        --hidden_size 256 --load_into my_model --output_dir my_vectors

The words are runs of letters and digits, or the tokens of --tokenizer_name_or_path. The vectors are saved in
word2vec's text format and as safetensors; --load_into makes them the embedding table of a model (output_dir/model).
Small worlds of few words need --subsample 0.01 and a --window of 2 or 3, and some thousand steps.

What to watch: the neighbours: words that are used alike should be near each other. With --analogies_file (lines of
four words, as word2vec's questions-words.txt) also `analogy_accuracy`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, load_splits, load_tokenizer, parse, recipe, train_and_save


@dataclass
class ShowArguments:
    _argument_group_name = "words and what to do with their vectors"

    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "Its tokens are the words."})
    neighbours_of: list[str] = field(
        default_factory=list, metadata={"help": "Words whose neighbours are shown. Unset: eight of the frequent ones."}
    )
    analogies_file: str | None = field(default=None, metadata={"help": "a b c d a line: a is to b as c is to d."})
    load_into: str | None = field(default=None, metadata={"help": "Folder or Hub id of a model of that hidden_size."})


def read_analogies(path: str) -> list[tuple[str, ...]]:
    if not Path(path).is_file():
        raise InputError(f"analogies_file: there is no file '{path}'")
    lines = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    questions = [tuple(line) for line in lines if line and line[0] != ":"]  # ": capital-common-countries"
    wrong = next((question for question in questions if len(question) != 4), None)
    if wrong is not None:
        raise InputError(f"analogies_file: '{' '.join(wrong)}' is not four words")
    return questions


def load_model(path: str, hidden_size: int):
    """The model as it was saved, head included, whatever its architecture."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(path)
        model_class = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = model_class.from_pretrained(path)
    except (OSError, ValueError) as e:
        raise InputError(f"load_into: no model in '{path}': {str(e).strip().splitlines()[0]}") from e
    width = model.get_input_embeddings().weight.shape[1]
    if width != hidden_size:
        raise InputError(f"load_into: the embeddings of '{path}' have {width} dimensions; set --hidden_size {width}")
    return model


def main():
    from hfcourse import EmbeddingsConfig, EmbeddingsTrainer
    from hfcourse.models.word_vectors import load_embedding_table

    script_args, args, show = parse(ScriptArguments, EmbeddingsConfig, ShowArguments, description=__doc__)
    if script_args.dataset_streaming and script_args.num_train_examples is None:
        raise InputError("num_train_examples: is required with dataset_streaming, or counting words may never end")
    questions = read_analogies(show.analogies_file) if show.analogies_file else []
    tokenizer = load_tokenizer(show.tokenizer_name_or_path) if show.tokenizer_name_or_path else None
    model = load_model(show.load_into, args.hidden_size) if show.load_into else None
    reader = tokenizer or (load_tokenizer(show.load_into) if show.load_into else None)
    train, evaluation = load_splits(script_args, args, required_columns=(args.text_column,))
    trainer = EmbeddingsTrainer(args, train_dataset=train, eval_dataset=evaluation, processing_class=tokenizer)
    for word in show.neighbours_of:
        trainer.model.word_vectors()[word]  # an unknown word is told of now, not after the training
    train_and_save(trainer, args, script_args)
    if not trainer.is_world_process_zero():
        return
    vectors = trainer.model.word_vectors()
    frequent = list(vectors.words[: 8 * 16 : 16])
    for word in show.neighbours_of or frequent:
        near = vectors.nearest(word, k=5)
        print(f"{word:>16}: {', '.join(f'{other} {cosine:.2f}' for other, cosine in near)}")
    if questions:
        accuracy, asked = vectors.analogy_accuracy(questions)
        print(f"analogies: {accuracy:.3f} of {asked} questions right ({len(questions) - asked} have unknown words)")
        trainer.save_metrics("analogies", {"analogy_accuracy": accuracy, "analogies_asked": asked})
    if model is not None:
        num_set = load_embedding_table(model, reader, vectors)
        model.save_pretrained(Path(args.output_dir) / "model")
        reader.save_pretrained(Path(args.output_dir) / "model")
        print(f"{args.output_dir}/model: {num_set} of {len(reader)} tokens have a word vector")


if __name__ == "__main__":
    recipe(main)
