"""A fine-tuned model is exported under the names of transformers' task classes."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.config import to_json
from bert_jax.errors import CheckpointError
from bert_jax.interop.huggingface import export_obstacle
from bert_jax.models.config import BertConfig, ModernConfig, TaskHeadConfig
from bert_jax.models.task import BertForTask
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.tasks.config import FineTuningConfig, TaskConfig
from bert_jax.training.checkpoint import save_params
from bert_jax.training.initial import flatten_params

# Class, output layer, representation and pooler: models/bert/modeling_bert.py, transformers 5.23.0.
CLASSES = {
    "classification": ("BertForSequenceClassification", "classifier", "pooled", True),
    "regression": ("BertForSequenceClassification", "classifier", "pooled", True),
    "tagging": ("BertForTokenClassification", "classifier", "last", False),
    "question_answering": ("BertForQuestionAnswering", "qa_outputs", "last", False),
    "multiple_choice": ("BertForMultipleChoice", "classifier", "pooled", True),
}


def fine_tuned(family, pretrained, directory, representation):
    labels = ("no", "yes") if family in ("classification", "tagging", "multiple_choice") else ()
    outputs = {"question_answering": 2, "multiple_choice": 1}.get(family, len(labels) or 1)
    unit = "token" if family in ("tagging", "question_answering") else "text"
    head = TaskHeadConfig(
        family=family, labels=labels, outputs=outputs, unit=unit, representation=representation
    )
    base = load_run(pretrained)
    model = BertForTask(base.model.config, head)
    rng = np.random.default_rng(0)
    output = {
        "kernel": rng.normal(size=(model.config.hidden_size, outputs)).astype(np.float32),
        "bias": rng.normal(size=outputs).astype(np.float32),
    }
    save_params(
        directory,
        {"bert": base.params["bert"], "output": output},
        model=model.config,
        experiment=None,
        tokenizer=base.tokenizer.to_json(),
        head=to_json(head),
    )
    return load_run(directory)


@pytest.mark.parametrize("family", CLASSES)
def test_tensors_have_the_names_of_the_task_class(family, pretrained, tmp_path):
    architecture, layer, representation, pooler = CLASSES[family]
    run = fine_tuned(family, pretrained, tmp_path / "run", representation)
    (tmp_path / "hf").mkdir()
    save_run(run, tmp_path / "hf", to="huggingface")
    tensors = safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [architecture]
    np.testing.assert_array_equal(tensors[f"{layer}.weight"], run.params["output"]["kernel"].T)
    np.testing.assert_array_equal(tensors[f"{layer}.bias"], run.params["output"]["bias"])
    assert ("bert.pooler.dense.weight" in tensors) == pooler
    assert not [name for name in tensors if name.startswith("cls.")]
    if family in ("classification", "tagging"):
        assert config["id2label"] == {"0": "no", "1": "yes"}
    # The encoder can be read back.
    allow = ("masked_token_head", "next_sentence_head", "bert/pooler")
    again = load_run(tmp_path / "hf", allow=allow)
    np.testing.assert_array_equal(
        again.params["bert"]["embeddings"]["token"], run.params["bert"]["embeddings"]["token"]
    )


@pytest.mark.parametrize("family", CLASSES)
def test_an_exported_model_predicts_as_before(family, pretrained, tmp_path):
    representation, pair = CLASSES[family][2], ("a", "b")
    fields = {"train": "tsv:t", "dev": "tfds:glue/mrpc:test", "representation": representation}
    of_family = {
        "multiple_choice": {"text_pair": "b,c"},
        "question_answering": {"text_pair": "passage", "max_question_length": 8},
    }
    fields |= of_family.get(family, {})
    task = TaskConfig(family=family, max_length=32, **fields)
    run = fine_tuned(family, pretrained, tmp_path / "run", representation)
    here = replace(task, train=f"tsv:{tmp_path}/t")  # the export has no directory of a machine
    run = replace(run, fine_tuning=FineTuningConfig(task=here), threshold=0.5)
    (tmp_path / "hf").mkdir()
    save_run(run, tmp_path / "hf", to="huggingface")
    again = load_run(tmp_path / "hf")
    assert again.model.head.labels == run.model.head.labels and again.threshold == 0.5
    assert replace(again.fine_tuning.task, labels=()) == task
    before, after = flatten_params(run.params), flatten_params(again.params)
    apart = {name for name in before if not np.array_equal(before[name], after[name])}
    has_pooler = CLASSES[family][3]
    assert apart <= (set() if has_pooler else {"bert/pooler/dense/kernel"})
    assert bool(again.loading.missing) != has_pooler
    inputs = {"question_answering": [pair], "multiple_choice": [("a", "b", "c")]}
    given = inputs.get(family, ["the people"])
    assert again.predict(given) == run.predict(given)


def test_a_fine_tuned_model_is_copied_with_its_head(pretrained, tmp_path):
    run = fine_tuned("classification", pretrained, tmp_path / "run", "mean")
    (tmp_path / "copy").mkdir()
    save_run(run, tmp_path / "copy", to="bert_jax")
    copy = load_run(tmp_path / "copy")
    assert copy.model == run.model
    assert all(map(np.array_equal, jax.tree.leaves(copy.params), jax.tree.leaves(run.params)))
    said = (
        "because BertForSequenceClassification needs task.representation=pooled; "
        "accepted: another fine-tuning, or this model in predict --task=task"
    )
    with pytest.raises(CheckpointError, match=f"fine-tuned on 'mean' cannot be exported, {said}"):
        save_run(run, tmp_path / "copy", to="huggingface")


def test_the_class_of_transformers_has_the_encoder_and_the_representation():
    assert export_obstacle(BertConfig(), "tagging", "last") is None
    assert "needs task.representation=last" in str(export_obstacle(BertConfig(), "tagging", "l"))
    assert "output layer for ModernConfig" in str(
        export_obstacle(ModernConfig(), "tagging", "last")
    )
