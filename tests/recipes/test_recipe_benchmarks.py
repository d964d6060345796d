"""evaluate --tasks: folders, adapters and encoder-decoders; JSON, Markdown and figure; what was killed goes on."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

import hfcourse.evaluation.benchmarks as benchmarks
from hfcourse.pipeline.files import read_json, read_jsonl


@pytest.fixture
def evaluate(run, tiny_llama_dir, tmp_path):
    def evaluate(*flags, model=tiny_llama_dir, folder=tmp_path / "out", tasks=("world",)):
        run("evaluate", "--model_name_or_path", model, "--output_dir", folder, "--limit=3", "--tasks", *tasks, *flags)
        return read_json(folder / "benchmarks.json")

    return evaluate


@pytest.fixture
def asked(monkeypatch):
    """Names of the tasks that are really asked."""
    names, run_task = [], benchmarks.run_task

    def counting(lm, task, settings):
        names.append(task.config.task)
        return run_task(lm, task, settings)

    monkeypatch.setattr(benchmarks, "run_task", counting)
    return names


def test_results_say_what_they_stand_for(evaluate, tmp_path):
    results = evaluate("--num_fewshot=1")
    assert results["groups"]["world"]["num_items"] == 15
    assert results["versions"].keys() >= {"torch", "transformers", "lm_eval"}
    task = results["tasks"]["world_people"]
    assert len(results["model_hash"]) == len(task["data_hash"]) == 16
    items = read_jsonl(tmp_path / "out" / "tasks" / "world_people.jsonl")
    assert task["metrics"]["acc"]["value"] == pytest.approx(sum(item["acc"] for item in items) / 3)
    assert (task["num_items"], task["num_fewshot"]) == (3, 1)
    assert "| world_people | acc |" in (tmp_path / "out" / "benchmarks.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_run_goes_on_with_the_next_task(evaluate, asked, monkeypatch, tmp_path):
    counting = benchmarks.run_task

    def killed(lm, task, settings):
        if task.config.task == "world_people":
            raise KeyboardInterrupt
        return counting(lm, task, settings)

    monkeypatch.setattr(benchmarks, "run_task", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    monkeypatch.setattr(benchmarks, "run_task", counting)
    assert asked == ["world_arithmetic", "world_feelings"]
    resumed = evaluate()
    assert asked == [f"world_{name}" for name in ("arithmetic", "feelings", "people", "reading", "tavi")]
    whole = evaluate(folder=tmp_path / "whole")
    assert [t["metrics"] for t in resumed["tasks"].values()] == [t["metrics"] for t in whole["tasks"].values()]


def test_nothing_stale_is_kept(evaluate, asked, tiny_llama, tiny_tokenizer, tmp_path):
    """Another model, other settings: all is asked anew. The same again: nothing is."""
    evaluate()
    evaluate()
    assert len(asked) == 5
    evaluate("--num_fewshot=1")
    assert len(asked) == 10
    tiny_llama(1).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    evaluate("--num_fewshot=1", model=tmp_path / "other")
    assert len(asked) == 15


def test_an_adapter_and_an_encoder_decoder(evaluate, tiny_llama_dir, tiny_llama, tiny_tokenizer, tmp_path):
    base = tiny_llama(0)
    base.name_or_path = tiny_llama_dir
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer.save_pretrained(tmp_path / "adapter")
    plain = evaluate(folder=tmp_path / "plain")
    with_adapter = evaluate(model=tmp_path / "adapter", folder=tmp_path / "adapted")
    assert with_adapter["num_parameters"] > plain["num_parameters"]
    assert with_adapter["model_hash"] != plain["model_hash"]
    shape = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=len(tiny_tokenizer), decoder_start_token_id=0, **shape))
    t5.save_pretrained(tmp_path / "t5")
    tiny_tokenizer.save_pretrained(tmp_path / "t5")
    seq2seq = evaluate(model=tmp_path / "t5", folder=tmp_path / "text")
    assert seq2seq["num_parameters"] == t5.num_parameters()
    assert 0 <= seq2seq["groups"]["world"]["metrics"]["acc"]["value"] <= 1


def test_a_generation_task_from_a_file(evaluate, tmp_path):
    rows = [{"question": "Two and two?", "answer": "2+2 is 4.\n#### 4"}] * 3
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = f"gsm8k_cot_zeroshot={tmp_path / 'test.jsonl'}"
    results = evaluate("--max_gen_toks=8", tasks=[named])
    metrics = results["tasks"]["gsm8k_cot_zeroshot"]["metrics"]
    assert metrics["exact_match,strict-match"] == {"value": 0.0, "se": 0.0}
    assert metrics.keys() == {"exact_match,strict-match", "exact_match,flexible-extract"}


def test_errors_are_one_line(error_of, tiny_llama_dir, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "Two and two?", "answer": "#### 4"}\n')
    flags = ["--model_name_or_path", tiny_llama_dir, "--output_dir", tmp_path]
    assert "no file or folder 'nowhere'" in error_of("evaluate", *flags, "--tasks", "mmlu=nowhere")
    assert "no file 'mine.yaml'" in error_of("evaluate", *flags, "--tasks", "mine.yaml")
    long = error_of("evaluate", *flags, "--tasks", f"gsm8k_cot_zeroshot={tmp_path / 'test.jsonl'}")
    assert "may write 256 tokens, and the model has 256 positions" in long
    assert "no model in" in error_of("evaluate", "--model_name_or_path", tmp_path, "--tasks", "world")


def test_benchmarks_during_training(run, error_of, tiny_llama_dir, pairs, tmp_path):
    flags = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", pairs, "--dataset_test_split=train"]
    flags += ["--output_dir", tmp_path, "--max_steps=1", "--per_device_train_batch_size=2", "--disable_tqdm=true"]
    flags += ["--eval_tasks", "world", "--eval_tasks_limit=2"]
    assert error_of("sft", *flags).startswith("error: eval_tasks: are asked at each evaluation")
    run("sft", *flags, "--eval_strategy=steps", "--eval_steps=1")
    logged = [
        log for log in read_json(tmp_path / "trainer_state.json")["log_history"] if "eval_world_people/acc" in log
    ]
    assert [log["step"] for log in logged] == [1]
