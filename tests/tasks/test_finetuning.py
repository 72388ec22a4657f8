"""Fine-tuning: it learns, adds one output layer, and writes a result that can be checked."""

import io
import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import assert_one_line, no_file_longer_than, run_command
from rich.console import Console

from bert_jax import environment
from bert_jax.config import config_hash, override, to_json
from bert_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
)
from bert_jax.faults.signals import Interrupted
from bert_jax.finetuning import seed_run
from bert_jax.finetuning.finetune import failed, finetune, make_setup, open_encoder, open_workdir
from bert_jax.finetuning.results import read_outcomes, read_seed
from bert_jax.finetuning.seed_run import evaluation_steps
from bert_jax.runs.load import load_run
from bert_jax.runs.model_card import model_card
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.tasks.datasets import encode_dataset, load_dataset
from bert_jax.tasks.families.batches import padded_length
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.probe import make_probe
from bert_jax.training.checkpoint import save_params
from bert_jax.training.initial import flatten_params
from bert_jax.training.optim import OptimizerConfig

FILLERS = ("a", "the", "film", "is", "play", "playing", "very", ".")


def sentences(count, seed):
    """Yields (words, label); the word good or bad decides the label."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words = list(rng.choice(FILLERS, size=rng.integers(1, 9)))
        good = bool(rng.integers(2))
        words.insert(int(rng.integers(len(words) + 1)), "good" if good else "bad")
        yield words, good


def configuration(task, **changes):
    return FineTuningConfig(
        task=task,
        training=TaskTrainingConfig(epochs=8, batch_size=16, evaluation_batch_size=16),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
        mesh=MeshConfig(data=1),
        **changes,
    )


@pytest.fixture(scope="module")
def write_splits(write_set):
    """`write_splits(kind, lines, train=(count, seed), ...)` writes `lines(count, seed)` of splits.

    It returns the spec of each split, such as `tsv:FILE`.
    """

    def write(kind, lines, **splits):
        name = lines.__name__
        return {
            split: f"{kind}:{write_set(f'{name}_{split}.{kind}', lines(*drawn))}"
            for split, drawn in splits.items()
        }

    return write


@pytest.fixture(scope="module")
def sentiment(write_splits):
    """90 sentences in train, and 25 in dev, which is not a multiple of the batch."""

    def labelled(count, seed):
        return [{"text": " ".join(words), "label": good} for words, good in sentences(count, seed)]

    files = write_splits("jsonl", labelled, train=(90, 1), dev=(25, 2))
    return configuration(
        TaskConfig(
            family="classification",
            **files,
            labels=("false", "true"),
            max_length=16,
            representation="mean",
        )
    )


@pytest.fixture(scope="module")
def tuned(sentiment, pretrained, tmp_path_factory):
    """The workdir and the result of two seeds."""
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    return workdir, finetune(sentiment, pretrained, workdir, seeds=2)


def params_of(directory):
    return {
        path: np.asarray(leaf) for path, leaf in flatten_params(load_run(directory).params).items()
    }


def changed(before, after):
    return {path for path in before if path in after and (before[path] != after[path]).any()}


def test_fine_tuning_learns_and_the_result_holds_the_metrics(tuned, sentiment):
    workdir, result = tuned
    assert json.loads((workdir / "result.json").read_text()) == result
    assert result["summary"]["dev"]["accuracy"]["mean"] >= 0.9
    assert result["failed_seeds"] == [] and result["config_hash"] == config_hash(sentiment)
    values = [seed["dev"]["accuracy"] for seed in result["seeds"]]
    summary = result["summary"]["dev"]["accuracy"]
    assert summary["mean"] == pytest.approx(np.mean(values))
    assert summary["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
    low, high = summary["interval"]
    assert low <= summary["mean"] <= high
    assert 0.4 < result["baselines"]["dev"]["majority"]["accuracy"] < 0.65
    assert result["data"]["dev"]["examples"] == 25
    train, dev = ({" ".join(words) for words, _ in sentences(*of)} for of in ((90, 1), (25, 2)))
    assert result["data"]["dev"]["texts_also_in_train"] == len(train & dev)
    assert "texts_also_in_train" not in result["data"]["train"]


def test_predictions_have_the_metrics_of_the_result(tuned):
    workdir, result = tuned
    outcomes = np.load(workdir / "seed-1" / "outcomes_dev.npy")
    lines = (workdir / "seed-1" / "predictions_dev.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 26
    predicted = [line.split("\t")[1] == "true" for line in lines[1:]]
    assert predicted == list(outcomes[:, 0])
    assert np.mean(outcomes[:, 0] == outcomes[:, 1]) == result["seeds"][1]["dev"]["accuracy"]


def test_the_exported_checkpoint_is_the_best_and_gives_the_predictions(tuned, tokenizer):
    workdir, result = tuned
    run = load_run(workdir / "seed-0")
    assert run.model.head.labels == ("false", "true") and run.tokenizer.pieces == tokenizer.pieces
    rows = [json.loads(line) for line in (workdir / "seed-0" / "metrics.jsonl").open()]
    best = max(rows, key=lambda row: row["dev/accuracy"])
    assert result["seeds"][0]["best_step"] == best["step"]
    assert result["seeds"][0]["dev"]["accuracy"] == best["dev/accuracy"]
    lines = (workdir / "seed-0" / "predictions_dev.tsv").read_text().splitlines()[1:]
    ids, real = rows_of([" ".join(words) for words, _ in sentences(25, 2)], tokenizer)
    logits = jax.jit(run.model.apply)({"params": run.params}, ids, 0 * ids, real)
    labels = [run.model.head.labels[best] for best in np.argmax(logits, axis=-1)]
    assert labels == [line.split("\t")[1] for line in lines]


def test_the_directory_of_all_seeds_opens_the_best_and_predicts_dev_as_it_did(tuned, sentiment):
    workdir, result = tuned
    run = load_run(workdir)
    scores = [seed["dev"]["accuracy"] for seed in result["seeds"]]
    assert run.path == workdir / f"seed-{np.argmax(scores)}" and run.fine_tuning == sentiment
    rows = [json.loads(line) for line in (run.path / "predictions_dev.jsonl").open()]
    dev = list(sentences(25, 2))
    assert [row["texts"] for row in rows] == [[" ".join(words)] for words, _ in dev]
    assert [row["gold"] for row in rows] == [str(good).lower() for _, good in dev]
    found = run.predict([" ".join(words) for words, _ in dev])
    assert [one["label"] for one in found] == [row["label"] for row in rows]
    # Rows of other lengths: float32 sums have another order.
    probabilities = [row["probability"] for row in rows]
    assert [one["probability"] for one in found] == pytest.approx(probabilities, abs=1e-5)
    assert open_encoder(workdir, sentiment).path == run.path


def rows_of(texts, tokenizer):
    """Returns ids of [CLS] TEXT [SEP] in rows of 16, and 1 at tokens."""
    ids = np.full((len(texts), 16), tokenizer.pad_id, np.int32)
    for row, text in zip(ids, texts, strict=True):
        pieces = [tokenizer.cls_id, *tokenizer.encode(text), tokenizer.sep_id]
        row[: len(pieces)] = pieces
    return ids, (ids != tokenizer.pad_id).astype(np.int32)


def test_a_fine_tuned_model_embeds_texts_and_has_no_pretraining_heads(tuned, tokenizer):
    """The vectors are the input of the output layer. Rows of another length differ by 1e-5."""
    run = load_run(tuned[0] / "seed-0")
    texts = [" ".join(words) for words, _ in sentences(3, 2)]
    ids, real = rows_of(texts, tokenizer)
    logits = jax.jit(run.model.apply)({"params": run.params}, ids, 0 * ids, real)
    output = run.params["output"]
    expected = run.embed(texts, "mean") @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    score = tuned[1]["seeds"][0]["dev"]["accuracy"]
    assert f"; labels: {', '.join(run.model.head.labels)}; dev accuracy: {score:.4f}>" in repr(run)
    with pytest.raises(CheckpointError, match=f"{run.path} logged no losses of words; accepted"):
        run.plot_curves()
    without = "fine-tuned for classification on 'mean', without"
    with pytest.raises(CheckpointError, match=f"{without} masked_token_head"):
        run.fill_mask("a [MASK]")
    with pytest.raises(CheckpointError, match=f"{without} bert/pooler"):
        run.embed(texts, "pooled")


def test_the_card_of_a_fine_tuned_model_has_its_task_and_its_metrics(tuned):
    card = model_card(load_run(tuned[0] / "seed-0"), "mine")
    assert "\npipeline_tag: text-classification\n" in card
    assert "| task | classification, from the vector `mean` |" in card
    score = tuned[1]["seeds"][0]["dev"]["accuracy"]
    baseline = max(one["accuracy"] for one in tuned[1]["baselines"]["dev"].values())
    assert f"| dev accuracy | {score:.4f} | {baseline:.4f} (" in card
    assert "No evaluation" not in card and "another implementation" not in card


def test_a_task_adds_one_output_layer_and_nothing_else(tuned, pretrained):
    before, after = params_of(pretrained), params_of(tuned[0] / "seed-0")
    encoder = {path for path in before if path.startswith("bert/")}
    assert after.keys() == encoder | {"output/kernel", "output/bias"}
    assert after["output/kernel"].shape == (32, 2) and after["output/bias"].shape == (2,)
    assert all(after[path].shape == before[path].shape for path in encoder)
    # The pooler is not used, so it is not trained: weight decay alone would change it.
    unused = {path for path in encoder if "pooler" in path}
    assert changed(before, after) == encoder - unused


def test_a_frozen_encoder_does_not_change(sentiment, pretrained, tmp_path):
    changes = {"training.frozen": True, "training.epochs": 1, "training.dropout": 0.3}
    probe = override(sentiment, changes)
    finetune(probe, pretrained, tmp_path / "run")
    before, after = params_of(pretrained), params_of(tmp_path / "run" / "seed-0")
    assert changed(before, after) == set()
    assert np.abs(after["output/bias"]).max() > 0  # the bias starts at 0
    # The config keeps the dropout of pretraining.
    configs = [load_run(path).model.config for path in (pretrained, tmp_path / "run" / "seed-0")]
    assert configs[0] == configs[1]


def test_a_seed_does_not_depend_on_other_seeds_or_on_an_interruption(
    tuned, sentiment, pretrained, tmp_path
):
    workdir, result = tuned
    unfinished = tmp_path / "alone" / "seed-1"  # left by a kill before result.json
    shutil.copytree(workdir / "seed-0", unfinished)
    (unfinished / "result.json").unlink()
    shutil.copy(workdir / "identity.json", tmp_path / "alone")
    alone = finetune(override(sentiment, {"seed": 1}), pretrained, tmp_path / "alone")
    first, second = (
        {name: value for name, value in seed.items() if name != "seconds"}
        for seed in (alone["seeds"][0], result["seeds"][1])
    )
    assert first == second
    before, after = params_of(workdir / "seed-1"), params_of(tmp_path / "alone" / "seed-1")
    assert changed(before, after) == set()
    assert changed(before, params_of(workdir / "seed-0")) > {"output/kernel"}


def test_finished_seeds_are_kept_and_another_task_is_refused(tuned, sentiment, pretrained):
    workdir, result = tuned
    written = (workdir / "seed-0" / "result.json").stat().st_mtime_ns
    again = finetune(sentiment, pretrained, workdir, seeds=2)
    assert again["summary"] == result["summary"]
    assert (workdir / "seed-0" / "result.json").stat().st_mtime_ns == written
    other = override(sentiment, {"optimizer.learning_rate": 1e-3})
    with pytest.raises(
        CheckpointError, match="fine-tuning with optimizer.learning_rate 0.003, this one has 0.001"
    ):
        finetune(other, pretrained, workdir)


def test_files_of_a_pretraining_run_are_not_overwritten(sentiment, pretrained, tmp_path):
    """A pretraining run with another config.json could not continue; `seed-0` may be such a run."""
    names = ("config.json", "metrics.jsonl", "checkpoints/1/state", "seed-0/config.json")
    for name in (*names, "passport.json"):
        workdir = tmp_path / name.replace("/", "-")
        file = workdir / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        said = f"{workdir} holds {name.split('/')[0]} of something else than a fine-tuning"
        with pytest.raises(CheckpointError, match=said):
            finetune(sentiment, pretrained, workdir)
        assert [path for path in workdir.rglob("*") if path.is_file()] == [file]
        assert file.read_text() == "{}"


def test_an_identity_that_lacks_a_hash_is_refused(sentiment, pretrained, tmp_path):
    (tmp_path / "identity.json").write_text(json.dumps({"config_hash": config_hash(sentiment)}))
    with pytest.raises(CheckpointError, match="holds a fine-tuning with checkpoint_sha256 None,"):
        finetune(sentiment, pretrained, tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', bytes(50), b"\xff", b"[]", b"null"])
@pytest.mark.parametrize("name", ["identity.json", "config.json"])
def test_a_damaged_identity_ends_the_command_and_is_kept(name, content, tuned, sentiment, tmp_path):
    for file in ("identity.json", "config.json"):
        shutil.copy(tuned[0] / file, tmp_path)
    (tmp_path / name).write_bytes(content)
    identity = json.loads((tuned[0] / "identity.json").read_bytes())
    hashes = {name: value for name, value in identity.items() if name.endswith("_sha256")}
    with pytest.raises(CheckpointError, match=f"{name}.*; accepted: "):
        open_workdir(tmp_path, sentiment, **hashes)
    assert (tmp_path / name).read_bytes() == content


SEED = b'{"seed": 0, "best_step": 6, "dev": {"accuracy": 0.5}}'


@pytest.mark.parametrize(
    "content",
    [
        *(b"", SEED[:30], bytes(50), b"\xff", b"[]", b"{}", b'{"seed": 0}'),
        *(b'{"seed": 0, "diverged_at_step": null}', SEED.replace(b"accuracy", b"precision")),
        *(SEED.replace(b'{"accuracy": 0.5}', b"5"), SEED.replace(b"0.5", b'"0.5"')),
        *(SEED.replace(b"6", b"null"), SEED.replace(b'"seed": 0', b'"seed": "0"')),
    ],
)
def test_a_damaged_result_of_a_seed_says_how_to_go_on(content, tmp_path):
    file = tmp_path / "result.json"
    file.write_bytes(SEED)
    assert read_seed(file, "accuracy", ["dev"]) == json.loads(SEED)
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_seed(file, "accuracy", ["dev"])
    said = str(error.value)
    assert str(file) in said and "\n" not in said
    assert said.endswith(f"delete {tmp_path} to train this seed again")


def test_a_full_disk_ends_a_seed_that_is_trained_again(sentiment, pretrained, tuned, tmp_path):
    with no_file_longer_than(30_000), pytest.raises(CheckpointError, match="cannot be written"):
        finetune(sentiment, pretrained, tmp_path / "run")
    assert not (tmp_path / "run" / "seed-0" / "result.json").exists()
    result = finetune(sentiment, pretrained, tmp_path / "run")
    first, again = tuned[1]["seeds"][0], result["seeds"][0]
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def other_value(content):
    values = np.load(io.BytesIO(content))
    values[0, 0] += 1  # the prediction of the first example
    stored = io.BytesIO()
    np.save(stored, values)
    return stored.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-3],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: bytes(len(content)),
        lambda content: content.replace(b"(25, 2)", b"(9999999999999, 2)"),
        lambda content: content.replace(b"<f8", b"|O8"),
        lambda content: content.replace(b"<f8", b">f8"),
        other_value,
        None,
    ],
)
def test_damaged_outcomes_are_not_used(damage, tuned, tmp_path):
    file = tmp_path / "outcomes_dev.npy"
    shutil.copy(tuned[0] / "seed-1" / "outcomes_dev.npy", file)
    metrics = tuned[1]["seeds"][1]["dev"]
    assert read_outcomes(file, CLASSIFICATION, metrics).shape == (25, 2)
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match="outcomes_dev.npy.*accepted: .*; delete") as error:
        read_outcomes(file, CLASSIFICATION, metrics)
    assert "\n" not in str(error.value)


def test_a_damaged_environment_and_result_are_written_again(
    tuned, sentiment, pretrained, tmp_path, capsys
):
    shutil.copytree(tuned[0], tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_bytes(b"")
    (tmp_path / "run" / "result.json").write_bytes(b"")
    assert finetune(sentiment, pretrained, tmp_path / "run", seeds=2)["seeds"] == tuned[1]["seeds"]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["versions"]
    assert "counts as missing: " in capsys.readouterr().err


def test_a_workdir_with_other_data_is_refused(tuned, sentiment, pretrained):
    file = Path(sentiment.task.train.removeprefix("jsonl:"))
    content = file.read_text()
    file.write_text(content + content.splitlines()[0])
    try:
        with pytest.raises(CheckpointError, match="holds a fine-tuning with data_sha256"):
            finetune(sentiment, pretrained, tuned[0])
    finally:
        file.write_text(content)


def test_a_metric_that_dev_cannot_give_is_refused(write_set, pretrained, tmp_path):
    file = f"conll:{write_set('pos.conll', ['film NN', 'is VB'])}"
    task = TaskConfig(
        family="tagging",
        train=file,
        dev=file,
        columns=("token", "tag"),
        text="token",
        label="tag",
        metric="entity_f1",
        max_length=12,
        representation="last",
    )
    with pytest.raises(ConfigError, match="accepted: accuracy.* for the labels of dev"):
        finetune(configuration(task), pretrained, tmp_path)


def test_a_metric_that_test_cannot_give_is_refused(write_set, pretrained, tmp_path):
    files = {}
    for name, answers in (("train", ["good"]), ("dev", []), ("test", ["good"])):
        line = {"q": "is it ?", "p": "a good film", "a": answers}
        files[name] = f"jsonl:{write_set(f'metric_{name}.jsonl', [line])}"
    task = TaskConfig(
        family="question_answering",
        **files,
        text="q",
        text_pair="p",
        label="a",
        metric="unanswerable_accuracy",
        max_length=20,
        max_question_length=6,
        no_answer=True,
        representation="last",
    )
    said = "accepted: f1, exact_match, answerable_f1, .* for the labels of test"
    with pytest.raises(ConfigError, match=said):
        finetune(configuration(task), pretrained, tmp_path)


def test_a_longer_test_text_does_not_lengthen_the_rows_of_training(
    sentiment, pretrained, write_set
):
    long = write_set("long.jsonl", [{"text": "good " * 40, "label": True}])
    config = override(sentiment, {"task.max_length": 48, "task.test": f"jsonl:{long}"})
    run = load_run(pretrained)
    dataset = encode_dataset(load_dataset(config.task), config.task, run.tokenizer)
    setup = make_setup(config, dataset, run)
    of_train, of_test = (padded_length(dataset.splits[name].rows, 48) for name in ("train", "test"))
    assert setup.length == of_train < of_test


def test_a_test_set_without_labels_is_predicted(sentiment, pretrained, write_set, tmp_path, capsys):
    unlabelled = f"jsonl:{write_set('unlabelled.jsonl', [{'text': 'good'}, {'text': 'bad'}])}"
    config = override(sentiment, {"task.test": unlabelled, "training.epochs": 1})
    result = finetune(config, pretrained, tmp_path / "run")
    said = f"2 examples of {unlabelled} have no label: test is not measured"
    printed = "".join(capsys.readouterr())
    assert said in printed
    assert "representation=mean: no export to Hugging Face, because BertForSequenceCl" in printed
    assert list(result["summary"]) == ["dev"]
    predictions = tmp_path / "run" / "seed-0" / "predictions_test.tsv"
    assert len(predictions.read_text().splitlines()) == 3  # with the header


def test_an_untrained_pooler_is_refused(tuned, sentiment, pretrained, experiment, tmp_path):
    run = load_run(pretrained)
    objective = replace(experiment.objective, next_sentence=False)
    without = replace(experiment, model=run.model.config, objective=objective)
    tokenizer = run.tokenizer.to_json()
    save_params(tmp_path, run.params, model=without.model, experiment=without, tokenizer=tokenizer)
    pooled = override(sentiment, {"task.representation": "pooled"})
    for source, said in (
        (
            tuned[0] / "seed-0",
            "on 'mean', without bert/pooler; .*training.reinitialize_pooler=true",
        ),
        (tmp_path, "objective.next_sentence False, without bert/pooler; accepted"),
    ):
        with pytest.raises(CheckpointError, match=said):
            finetune(pooled, source, tmp_path / "run")
        for field in ("training.reinitialize_pooler", "training.from_scratch"):
            assert open_encoder(source, override(pooled, {field: True})).path == source
        assert open_encoder(source, sentiment).path == source
    assert open_encoder(pretrained, pooled).path == pretrained
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mesh_gives_the_same_numbers(sentiment, pretrained, tmp_path):
    """Losses agree to 1e-4: float32 sums have another order in 6 updates at a high rate.

    The mesh cuts batches of the evaluation, which have 14 rows, into 4 parts of 4 rows.
    """
    losses, eight = [], {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
    for mesh in ({"mesh.data": 1}, eight | {"training.evaluation_batch_size": 14}):
        config = override(
            sentiment, {"training.epochs": 1, "training.evaluations_per_epoch": 2} | mesh
        )
        workdir = tmp_path / str(len(losses))
        finetune(config, pretrained, workdir)
        rows = [json.loads(line) for line in (workdir / "seed-0" / "metrics.jsonl").open()]
        losses.append([row["train/loss"] for row in rows])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_seed_that_learns_nothing_or_diverges_has_failed(sentiment, pretrained, tmp_path):
    still = override(sentiment, {"optimizer.learning_rate": 1e-9, "training.epochs": 2})
    result = finetune(still, pretrained, tmp_path / "still")
    rows = [json.loads(line) for line in (tmp_path / "still/seed-0/metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [6, 12]
    assert result["seeds"][0]["best_step"] == 6  # the first of equal evaluations
    majority = result["baselines"]["dev"]["majority"]["accuracy"]
    # The first output layer of this seed is not better than the majority.
    assert result["seeds"][0]["dev"]["accuracy"] <= majority and result["failed_seeds"] == [0]
    infinite = override(sentiment, {"optimizer.learning_rate": 1e30, "training.epochs": 2})
    with pytest.raises(DivergenceError, match="parameters of every seed became infinite"):
        finetune(infinite, pretrained, tmp_path / "infinite")
    seed = json.loads((tmp_path / "infinite" / "seed-0" / "result.json").read_text())
    # Update 1 has rate 0, update 2 has rate 1e30, so step 3 is the first with an infinite loss. Dev
    # is evaluated after update 6.
    assert seed == {"seed": 0, "diverged_at_step": 3}
    (line,) = (tmp_path / "infinite" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["step"] == 6 and row["train/loss"] is None
    assert not [name for name in row if name.startswith("dev/")]


def test_infinite_parameters_are_not_a_checkpoint(sentiment, pretrained, tmp_path):
    """There is one update. Its loss is finite; its parameters are not."""
    changes = {"optimizer.learning_rate": 1e30, "training.epochs": 1, "training.batch_size": 90}
    with pytest.raises(DivergenceError, match="parameters of every seed became infinite"):
        finetune(override(sentiment, changes), pretrained, tmp_path)
    assert json.loads((tmp_path / "seed-0" / "result.json").read_text())["diverged_at_step"] == 1
    (row,) = (tmp_path / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row)["train/loss"] > 0
    assert not (tmp_path / "seed-0" / "checkpoints").exists()


@pytest.mark.slow
def test_tags_are_learned_and_written_for_conlleval(write_splits, pretrained, tmp_path):
    tags = {"good": "B-Q", "bad": "B-Q", "very": "B-Q", "film": "I-Q"}

    def tagged(count, seed):
        for words, _ in sentences(count, seed):
            yield from [*(f"{word} {tags.get(word, 'O')}" for word in words), ""]

    config = configuration(
        TaskConfig(
            family="tagging",
            **write_splits("conll", tagged, train=(60, 3), dev=(20, 4)),
            columns=("token", "tag"),
            text="token",
            label="tag",
            metric="entity_f1",
            max_length=20,
            representation="last4",
        )
    )
    config = override(config, {"training.group_by_length": True})
    result = finetune(config, pretrained, tmp_path)
    assert result["labels"] == ["B-Q", "I-Q", "O"]
    assert result["summary"]["dev"]["entity_f1"]["mean"] > 0.9
    blocks = (tmp_path / "seed-0" / "predictions_dev.conll").read_text().split("\n\n")
    expected = [words for words, _ in sentences(20, 4)]
    assert [[line.split()[0] for line in block.splitlines()] for block in blocks] == expected


@pytest.mark.slow
def test_answers_are_learned_and_written_for_the_squad_script(write_splits, pretrained, tmp_path):
    def asked(count, seed, more=0):
        for i, (words, good) in enumerate(sentences(count, seed)):
            passage, answers = " ".join(words + ["very"] * more), ["good"] if good else []
            yield {"id": f"q{i}", "q": "is a film good ?", "p": passage, "a": answers}

    # The passages of test are longer than a row of train.
    files = write_splits("jsonl", asked, train=(90, 5), dev=(20, 6), test=(8, 7, 20))
    config = configuration(
        TaskConfig(
            family="question_answering",
            **files,
            text="q",
            text_pair="p",
            label="a",
            max_length=40,
            max_question_length=6,
            no_answer=True,
            representation="last",
        )
    )
    result = finetune(config, pretrained, tmp_path)
    assert result["summary"]["dev"]["f1"]["mean"] > 0.9
    (seed,) = result["seeds"]
    assert "threshold" in seed and result["failed_seeds"] == []
    answered = seed["dev_without_threshold"]
    assert answered["answerable_f1"] > 0.9
    assert answered["unanswerable_accuracy"] < seed["dev"]["unanswerable_accuracy"]
    predictions = json.loads((tmp_path / "seed-0" / "predictions_dev.json").read_text())
    assert list(predictions) == [f"q{i}" for i in range(20)]
    assert set(predictions.values()) >= {"", "good"}
    assert result["summary"]["test"]["f1"]["mean"] > 0.6  # train has no rows of this length


def test_a_seed_that_beats_no_answer_only_by_its_threshold_has_failed():
    baselines = {
        "no_answer": {"f1": 0.5, "answerable_f1": 0.0},
        "overlapping_sentence": {"f1": 0.1, "answerable_f1": 0.2},
    }
    seed = {"dev": {"f1": 0.52, "answerable_f1": 0.04}}
    for answerable, expected in ((0.2, True), (0.21, False)):
        answered = {"dev_without_threshold": {"f1": 0.1, "answerable_f1": answerable}}
        assert failed(seed | answered, baselines, "f1") == expected
    assert not failed(seed, baselines, "f1")  # as if every question had an answer
    assert failed({"diverged_at_step": 3}, baselines, "f1")


@pytest.mark.parametrize(
    ("score", "baseline", "expected"),
    [(0.8, 0.7, False), (0.7, 0.7, True), (0.99, 1.0, True), (1.0, 1.0, False)],
)
def test_a_seed_has_failed_unless_it_beats_every_baseline_or_is_perfect(score, baseline, expected):
    baselines = {"majority": {"accuracy": 0.5}, "word": {"accuracy": baseline}}
    assert failed({"dev": {"accuracy": score}}, baselines, "accuracy") == expected


@pytest.mark.parametrize(
    ("steps", "epochs", "per_epoch", "expected"),
    [(12, 2, 1, {6, 12}), (7, 1, 2, {4, 7}), (14, 2, 2, {4, 7, 11, 14}), (1, 1, 3, {1})],
)
def test_dev_is_evaluated_at_the_end_of_every_epoch(steps, epochs, per_epoch, expected):
    training = TaskTrainingConfig(epochs=epochs, evaluations_per_epoch=per_epoch)
    assert evaluation_steps(steps, training) == expected


@pytest.mark.slow
def test_choices_are_learned(write_splits, pretrained, tmp_path):
    def choices(count, seed):
        yield "sent,one,two,label"
        for words, good in sentences(count, seed):
            rest = " ".join(word for word in words if word not in ("good", "bad"))
            yield f"{rest},{'good,bad' if good else 'bad,good'},{int(not good)}"

    files = write_splits("csv", choices, train=(80, 7), dev=(20, 8))
    config = configuration(
        TaskConfig(
            family="multiple_choice", **files, text="sent", text_pair="one,two", max_length=16
        )
    )
    result = finetune(config, pretrained, tmp_path)
    assert result["labels"] == ["0", "1"]
    assert result["summary"]["dev"]["accuracy"]["mean"] > 0.9


@pytest.mark.slow
def test_similarity_is_learned(write_splits, pretrained, tmp_path):
    def rated(count, seed):
        yield "a\tb\tscore"
        both = zip(sentences(count, seed), sentences(count, seed + 100), strict=True)
        for (first, good), (second, also) in both:
            yield f"{' '.join(first)}\t{' '.join(second)}\t{float(good) + float(also)}"

    config = configuration(
        TaskConfig(
            family="regression",
            **write_splits("tsv", rated, train=(90, 9), dev=(20, 10)),
            text="a",
            text_pair="b",
            label="score",
            max_length=24,
            representation="cls",
        )
    )
    config = override(config, {"training.epochs": 16})
    result = finetune(config, pretrained, tmp_path)
    assert result["summary"]["dev"]["pearson"]["mean"] > 0.8
    assert result["baselines"]["dev"]["mean"]["pearson"] == 0.0


# ---- Mistakes of a user --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"task.dev": ""}, ConfigError, "task.dev is ''; accepted: data such as tsv:FILE"),
        ({"task.dev": "jsonl:{empty}"}, DataError, "empty.jsonl:1 holds no example"),
        (
            {"task.labels": '["true"]'},
            DataError,
            "train.jsonl:.*: label is 'false'; accepted: true",
        ),
        ({"task.dev": "jsonl:{hidden}"}, DataError, "hidden.jsonl:1: label is hidden"),
        ({"task.metric": "pearson"}, ConfigError, "accepted: accuracy, f1.* for classification"),
        (
            {"task.no_answer": True},
            ConfigError,
            "task.no_answer is True; accepted: False for class",
        ),
        (
            {"task.columns": '["text", "label"]'},
            ConfigError,
            r"task.columns is \('text', 'label'\); accepted: \(\) without a set of tsv: or conll:",
        ),
        ({"task.max_length": 128}, ConfigError, "task.max_length is 128; accepted: at most 64"),
        (
            {"training.reinitialize_pooler": True},
            ConfigError,
            "reinitialize_pooler is True; accepted: false without task.representation=pooled",
        ),
        ({"training.batch_size": 15, "mesh.data": 2}, ConfigError, "training.batch_size"),
    ],
)
def test_an_error_is_raised_before_any_compile(
    changes, error, said, sentiment, pretrained, write_set, tmp_path, monkeypatch
):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: lambda *_: pytest.fail("ran a program"))
    files = {
        "empty": write_set("empty.jsonl", []),
        "hidden": write_set("hidden.jsonl", [{"text": "good", "label": None}]),
    }
    changes = {k: v.format(**files) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(error, match=said):
        finetune(override(sentiment, changes), pretrained, tmp_path / "run")


@pytest.mark.parametrize("library", ["sklearn", "scipy"])
def test_the_error_names_a_missing_library_before_reading_data(
    library, sentiment, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=rf"with {library}: pip install -e '\.\[tasks\]'"):
        finetune(sentiment, tmp_path / "none", tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"with {library}: pip install -e '\.\[tasks\]'"):
        make_probe(sentiment, None, None)


def test_a_seed_that_ends_early_leaves_no_thread(sentiment, pretrained, tmp_path, monkeypatch):
    # Python waits for such a thread at its end, and the command would never end.
    def end(*_):
        raise Interrupted("interrupted by SIGTERM")

    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(environment, "plain_console", lambda **_: terminal)
    monkeypatch.setattr(seed_run, "evaluate", end)
    with pytest.raises(Interrupted) as caught:
        finetune(sentiment, pretrained, tmp_path / "run")
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("rich."):
            thread.join(timeout=10)
            assert caught.tb and not thread.is_alive()


def test_the_command_ends_with_one_line_and_status_2(sentiment, pretrained, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(sentiment)))
    for more, said in (
        ([f"--checkpoint={pretrained}", f"--workdir={tmp_path}/run", "--seeds=0"], "--seeds is 0"),
        ([f"--checkpoint={tmp_path}", f"--workdir={tmp_path}/run"], "is not a run"),
    ):
        assert_one_line(run_command("finetune", f"--experiment={file}", *more), said)
