"""A fine-tuned model predicts new texts as its fine-tuning predicted dev."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from commands import run_command

from bert_jax.config import to_json
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.finetuning.finetune import make_setup
from bert_jax.finetuning.seed_run import write_predictions
from bert_jax.predict import Task, encoded_lines, make_task
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.tasks.datasets import encode_dataset, load_dataset
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.families.texts import answers, shortest
from bert_jax.training.checkpoint import save_params

# The fields, records and inputs of each family. A record and its input have the same texts.
SETS = {
    "classification": (
        {"text": "s", "label": "y"},
        [{"s": "a good film", "y": "yes"}, {"s": "bad .", "y": "no"}, {"s": "is it", "y": "no"}],
        ["a good film", "bad .", "is it"],
    ),
    "regression": (
        {"text": "s", "text_pair": "t", "label": "y"},
        [{"s": "a good film", "t": "a play", "y": 1.5}, {"s": "bad", "t": "very bad", "y": 4}],
        [("a good film", "a play"), ("bad", "very bad")],
    ),
    "multiple_choice": (
        {"text": "s", "text_pair": "one, two", "choice_start": "start", "label": "y"},
        [
            {"s": "who", "start": "the", "one": "film", "two": "play .", "y": 1},
            {"s": "is it", "start": "a", "one": "bad", "two": "good film", "y": 0},
        ],
        [("who", "the", "film", "play ."), ("is it", "a", "bad", "good film")],
    ),
    "tagging": (
        {"text": "s", "label": "y"},
        [{"s": ["a", "film."], "y": ["O", "B-X"]}, {"s": ["good"] * 20, "y": ["O"] * 20}],
        [["a", "film."], ["good"] * 20],
    ),
    "question_answering": (
        {"text": "s", "text_pair": "t", "label": "y"}
        | {"no_answer": True, "max_question_length": 6, "stride": 4},
        [
            {"id": "q1", "s": "who ?", "t": "the very good film " * 6, "y": ["good film"]},
            {"id": "q2", "s": "what ?", "t": "a bad play .", "y": []},
            {"id": "q3", "s": "who is ?", "t": "a bad play .", "y": ["bad"]},
        ],
        [
            ("who ?", "the very good film " * 6),
            {"question": "what ?", "context": "a bad play ."},
            {"s": "who is ?", "t": "a bad play ."},
        ],
    ),
}


@pytest.fixture(scope="module")
def fine_tuned(pretrained, write_set, tmp_path_factory):
    """`fine_tuned(family)` opens a directory of finetune with a seed that was not trained.

    The seed has no fine_tuning.json, as in earlier versions. Its output layer is random, and large
    enough that outputs differ between inputs.
    """
    made = {}

    def make(family):
        if family in made:
            return made[family]
        fields, records, _ = SETS[family]
        file = f"jsonl:{write_set(f'predict_{family}.jsonl', records)}"
        unit = FAMILIES[family].unit
        task = TaskConfig(
            family=family,
            train=file,
            dev=file,
            max_length=16,
            representation="last" if unit == "token" else "pooled",
            **fields,
        )
        training = TaskTrainingConfig(evaluation_batch_size=8)
        config = FineTuningConfig(task=task, training=training, mesh=MeshConfig(data=1))
        run = load_run(pretrained)
        dataset = encode_dataset(load_dataset(task), task, run.tokenizer)
        setup = make_setup(config, dataset, run)
        rng, outputs = np.random.default_rng(0), setup.model.head.outputs
        output = {
            "kernel": rng.normal(size=(run.model.config.hidden_size, outputs)).astype(np.float32),
            "bias": rng.normal(size=outputs).astype(np.float32),
        }
        params = {"bert": run.params["bert"], "output": output}
        directory = tmp_path_factory.mktemp(family)
        seed = directory / "seed-3"
        seed.mkdir()
        with jax.set_mesh(setup.mesh):
            result = write_predictions(setup, params, seed)
        save_params(
            seed,
            params,
            model=run.model.config,
            experiment=None,
            tokenizer=run.tokenizer.to_json(),
            head=to_json(setup.model.head),
        )
        files = {
            "config.json": to_json(config),
            "identity.json": {},
            "result.json": {"best_seed": 3},
            "seed-3/result.json": result,
        }
        for name, content in files.items():
            (directory / name).write_text(json.dumps(content))
        made[family] = load_run(directory)
        return made[family]

    return make


def written(run):
    with (run.path / "predictions_dev.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def assert_equal_answers(found, expected):
    """Batches of other shapes round float32 sums differently."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if name == "tags":
                assert_equal_answers(value, other[name])
            elif isinstance(value, float):
                assert value == pytest.approx(other[name], rel=1e-4, abs=1e-6)
            else:
                assert value == other[name]


@pytest.mark.parametrize("family", SETS)
def test_predict_gives_the_predictions_file_of_the_fine_tuning(family, fine_tuned):
    run, (_, records, inputs) = fine_tuned(family), SETS[family]
    assert run.path.name == "seed-3"
    rows = written(run)
    found = run.predict(inputs)
    assert_equal_answers(
        found, [{k: v for k, v in row.items() if k not in ("id", "texts", "gold")} for row in rows]
    )
    golds = [row["gold"] for row in rows]
    assert golds == ["1", "0"] if family == "multiple_choice" else [one["y"] for one in records]
    assert rows[0]["texts"][0] == (records[0]["s"][0] if family == "tagging" else records[0]["s"])
    unlabelled = [{k: v for k, v in one.items() if k != "y"} for one in records]
    assert_equal_answers(run.predict(unlabelled[::-1]), found[::-1])
    assert run.predict([]) == []
    if family == "question_answering":  # inputs alone
        assert_equal_answers([run.predict(inputs[1]), run.predict(inputs[2])], found[1:])


def test_a_threshold_of_the_fine_tuning_is_applied(fine_tuned):
    run = fine_tuned("question_answering")
    inputs = SETS["question_answering"][2]
    assert run.threshold is not None
    never = replace(run, threshold=-np.inf).predict(inputs)
    always = replace(run, threshold=np.inf).predict(inputs)
    for (_, passage), none, answer in zip(
        [(0, "the very good film " * 6), *[(0, "a bad play .")] * 2], never, always, strict=True
    ):
        assert none["answer"] == "" and none["start"] is none["end"] is None
        assert answer["answer"] and passage[answer["start"] : answer["end"]] == answer["answer"]
        assert none["probability"] + answer["probability"] <= 1


def test_the_probabilities_of_all_labels_are_given_if_asked_for(fine_tuned):
    run = fine_tuned("classification")
    found = run.predict("a good film", probabilities=True)
    assert list(found["probabilities"]) == ["no", "yes"]
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert found["probability"] == max(found["probabilities"].values())
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
    logits = [np.log(np.array([0.25, 0.75], np.float32))]
    (answer,) = answers(("no", "yes"), [1], logits)
    assert answer["probability"] == pytest.approx(0.75) and shortest(np.float32(0.1)) == 0.1


def test_the_tags_of_a_text_have_its_characters(fine_tuned):
    run = fine_tuned("tagging")
    text = "The  film, a\tgood play."
    tags = run.predict(text)["tags"]
    assert [tag["text"] for tag in tags] == ["The", "film", ",", "a", "good", "play", "."]
    assert all(text[tag["start"] : tag["end"]] == tag["text"] for tag in tags)
    listed = run.predict([[tag["text"] for tag in tags]])[0]["tags"]
    assert [tag["tag"] for tag in listed] == [tag["tag"] for tag in tags]
    joined = "The film , a good play ."
    assert all(joined[tag["start"] : tag["end"]] == tag["text"] for tag in listed)


# ---- Mistakes of a user --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "inputs", "said"),
    [
        (
            "classification",
            3,
            "inputs is 3 \\(int\\); accepted: a text, a tuple, a dict, or a list",
        ),
        ("classification", b"a", "inputs is b'a' \\(bytes\\); accepted: a text, a tuple"),
        ("classification", ["a", 3], "input 1 is 3 \\(int\\); accepted: a text, or a dict with s$"),
        (
            "classification",
            ("a", "b"),
            "input 0 is .* \\(tuple\\); accepted: a text, or a dict with s",
        ),
        ("classification", {"text": "a"}, "input 0 is .* \\(dict\\); accepted: a text, or a dict"),
        ("classification", ["\ud83d"], "input 0: s cannot be read"),
        (
            "regression",
            ["a"],
            "input 0 is 'a' \\(str\\); accepted: a tuple of 2 texts, or a dict wit",
        ),
        ("regression", [("a", None)], "input 0 is .*; accepted: a tuple of 2 texts"),
        ("tagging", [["a", 3]], "input 0: s is 3 \\(int\\); accepted: a text"),
        (
            "tagging",
            [3],
            "input 0 is 3 \\(int\\); accepted: a text, a list of tokens, or a dict with",
        ),
        ("question_answering", [{"question": "a"}], "input 0 is .* or a dict with s, t"),
        ("multiple_choice", [("a", "b")], "input 0 is .*; accepted: a tuple of 4 texts, or a dict"),
    ],
)
def test_the_error_names_a_wrong_input(family, inputs, said, fine_tuned):
    with pytest.raises(DataError, match=said) as error:
        fine_tuned(family).predict(inputs)
    assert "\n" not in str(error.value)


def test_a_record_has_the_fields_of_its_task_before_other_names(fine_tuned):
    run = fine_tuned("question_answering")
    record = {"s": "who is ?", "t": "a bad play .", "question": "?", "context": "very good"}
    assert run.predict(record) == run.predict(("who is ?", "a bad play ."))


def test_probabilities_of_all_labels_need_labels_of_a_text(fine_tuned):
    with pytest.raises(ConfigError, match="probabilities is True; accepted: False for regression"):
        fine_tuned("regression").predict(("a", "b"), probabilities=True)


def test_a_model_without_a_task_says_how_to_fine_tune(pretrained, fine_tuned, tmp_path):
    with pytest.raises(CheckpointError, match="was not fine-tuned; accepted: .* bert_jax.finetune"):
        load_run(pretrained).predict("a")
    shutil.copytree(fine_tuned("classification").path, tmp_path / "seed-3")
    without = load_run(tmp_path / "seed-3")
    with pytest.raises(CheckpointError, match="lacks fine_tuning.json, the config"):
        without.predict("a")


def test_a_fine_tuning_without_a_finished_seed_is_refused(tmp_path):
    (tmp_path / "identity.json").write_text("{}")
    with pytest.raises(CheckpointError, match="without result.json, so no seed is the best; acc"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text('{"best_seed": "3"}')
    with pytest.raises(CheckpointError, match="result.json: best_seed is str; accepted: int"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text('{"best_seed": 3}')
    with pytest.raises(CheckpointError, match="seed-3"):
        load_run(tmp_path)


def test_a_copy_of_a_fine_tuned_model_predicts_the_same(fine_tuned, tmp_path):
    run = fine_tuned("question_answering")
    (tmp_path / "copy").mkdir()
    save_run(run, tmp_path / "copy", to="bert_jax")
    copy = load_run(tmp_path / "copy")
    assert copy.fine_tuning == run.fine_tuning and copy.threshold == run.threshold
    inputs = SETS["question_answering"][2]
    assert copy.predict(inputs) == run.predict(inputs)


# ---- The command ---------------------------------------------------------------------------------


def answered(run, lines, **options):
    task = make_task(run, "task", options)
    return list(task.answer(list(encoded_lines([line.encode() for line in lines], task))))


def test_the_command_reads_texts_pairs_and_records(fine_tuned):
    lines = {
        "classification": ["a good film\n", '{"s": "bad ."}\n', "is it"],
        "regression": ["a good film\ta play\n", '{"t": "very bad", "s": "bad", "y": 3}\n'],
        "tagging": ['{"s": ["a", "film."]}\n', json.dumps({"s": ["good"] * 20})],
        "multiple_choice": ["who\tthe\tfilm\tplay .\n", "is it\ta\tbad\tgood film\n"],
    }
    for family, of_family in lines.items():
        found = answered(fine_tuned(family), of_family)
        assert_equal_answers(found, fine_tuned(family).predict(SETS[family][2]))
    assert "probabilities" in answered(fine_tuned("classification"), ["a"], probabilities=True)[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: the record is not JSON"),
        (
            "{}",
            "line 1: the input is {} .dict.; accepted: a tuple of 2 texts, or a dict with s, t",
        ),
        ("a", "line 1: the number of tabs is 0; accepted: two texts with a tab between them"),
        ("a\t ", "line 1: has a blank text beside its tab"),
        ("", "line 1: is blank"),
    ],
)
def test_the_command_names_a_wrong_line(line, said, fine_tuned):
    with pytest.raises(DataError, match=said):
        answered(fine_tuned("regression"), [line])


def test_a_line_of_another_task_is_no_record():
    task = Task(lambda *texts: texts, list)
    assert next(encoded_lines([b"{}"], task)) == ("{}",)


@pytest.mark.slow
def test_the_command_prints_a_label_for_each_line(fine_tuned, tmp_path):
    run = fine_tuned("classification")
    (tmp_path / "texts").write_text("a good film\nbad .\n")
    with (tmp_path / "texts").open() as lines:
        result = run_command("predict", f"--run={run.path.parent}", "--task=task", stdin=lines)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert_equal_answers(found, run.predict(["a good film", "bad ."]))
