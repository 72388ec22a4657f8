"""The linear probe: its metric, and pretraining with a probe gives the same losses."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax import pretrain
from bert_jax.config import override, to_json
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import ConfigError, DataError
from bert_jax.models.bert import BertForPretraining
from bert_jax.runs.load import load_run
from bert_jax.tasks.config import FineTuningConfig, TaskConfig
from bert_jax.tasks.probe import fit_and_predict, make_probe
from bert_jax.training.state import unboxed_params
from bert_jax.training.train import train

ROOT = Path(bert_jax.__file__).parents[1]


@pytest.fixture(scope="module")
def task(write_set):
    """The label is the word `good` or `bad` of a sentence."""
    rng = np.random.default_rng(0)
    files = {}
    for name, count in (("train", 80), ("dev", 40)):
        lines = []
        for _ in range(count):
            words = [*rng.choice(["a", "the", "film", "is"], size=3), rng.choice(["good", "bad"])]
            lines.append({"text": " ".join(words), "label": str(words[-1])})
        files[name] = f"jsonl:{write_set(f'probe_{name}.jsonl', lines)}"
    return FineTuningConfig(
        task=TaskConfig(family="classification", **files, max_length=8, representation="mean")
    )


def test_a_probe_separates_labels_that_the_encoder_separates(task, pretrained):
    run = load_run(pretrained)
    # A pretraining may use a kernel that needs other rows than those of a probe.
    encoder = replace(run.model.config, attention="splash", attention_dropout=0.0)
    probe = make_probe(task, encoder, run.tokenizer)
    found = probe(run.params)
    assert found.keys() == {"eval/probe_accuracy"} and found["eval/probe_accuracy"] >= 0.95
    assert probe(run.params) == found
    # An encoder with the same vector for every text is not better than the majority.
    blind = jax.tree.map(jax.numpy.zeros_like, run.params)
    assert probe(blind)["eval/probe_accuracy"] < 0.7
    # The run has diverged, which its writer of metrics says.
    broken = jax.tree.map(lambda leaf: leaf * np.nan, run.params)
    assert np.isnan(probe(broken)["eval/probe_accuracy"])


def test_a_sample_with_one_label_is_refused_before_the_pretraining(task, pretrained, write_set):
    run = load_run(pretrained)
    lines = [{"text": "good", "label": "good"}] * 3000 + [{"text": "bad", "label": "bad"}]
    train = f"jsonl:{write_set('probe_rare.jsonl', lines)}"
    rare = replace(task, task=replace(task.task, train=train))
    with pytest.raises(DataError, match="labels in task.train is 1; accepted: two or more in a sa"):
        make_probe(rare, run.model.config, run.tokenizer)


def test_a_number_is_probed_by_a_ridge_regression():
    x = np.random.default_rng(0).normal(size=(200, 3))
    predicted = fit_and_predict(x, x @ [1.0, -2.0, 0.0], x[:5], regression=True)
    np.testing.assert_allclose(predicted, x[:5] @ [1.0, -2.0, 0.0], atol=0.05)  # ridge bias


def test_a_family_without_a_probe_is_refused(pretrained):
    run = load_run(pretrained)
    tags = FineTuningConfig(
        task=TaskConfig(family="tagging", train="conll:a", dev="conll:b", representation="last")
    )
    with pytest.raises(ConfigError, match="accepted: classification, regression"):
        make_probe(tags, run.model.config, run.tokenizer)


@pytest.mark.slow
def test_pretraining_logs_the_probe_and_computes_the_same_loss(task, experiment, tmp_path):
    short = override(experiment, {"training.steps": 4, "training.eval_every": 2})
    tokenizer = load_tokenizer(experiment.data.directory)
    probe = make_probe(task, experiment.model, tokenizer)
    probed = train(short, tmp_path / "probed", probes=[probe])
    plain = train(short, tmp_path / "plain")
    assert probed["mlm_loss"] == plain["mlm_loss"]
    rows = [json.loads(line) for line in (tmp_path / "probed" / "metrics.jsonl").open()]
    of_evaluations = [row for row in rows if "eval/mlm_loss" in row]
    assert [row["step"] for row in of_evaluations] == [2, 4]
    assert all(0 <= row["eval/probe_accuracy"] <= 1 for row in of_evaluations)


def test_the_command_reads_a_probe_from_a_fine_tuning_file(task, experiment, tmp_path):
    file = tmp_path / "probe.json"
    file.write_text(json.dumps(to_json(task)))
    probed = override(experiment, {"evaluation.probe": str(file)})
    run_params = jax.jit(lambda: unboxed_params(BertForPretraining(experiment.model), 0))()
    found = pretrain._load_probe(probed)(run_params)
    assert found.keys() == {"eval/probe_accuracy"}
    other = "experiments/quickstart.py"
    with pytest.raises(ConfigError, match="returns Experiment; accepted: FineTuningConfig"):
        pretrain._load_probe(override(experiment, {"evaluation.probe": str(ROOT / other)}))
