"""Fine-tuned models are exported; transformers gives the labels that `run.predict` gives."""

import json

import jax
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.finetuning.finetune import finetune
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.checkpoint import save_params
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.state import unboxed_params

WORDS = ("good", "bad", "film", "a", "the", "is", "play", "##ing", "very", "who", ".", "?")
FILLERS = ("a", "the", "film", "is", "playing", "very", ".")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pretrained")
    model = BertConfig(
        vocab_size=len(SPECIAL_PIECES) + len(WORDS),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_positions=64,
        initializer_stddev=0.2,
    )
    tokenizer = WordPiece(pieces=(*SPECIAL_PIECES, *WORDS), lower_case=True).to_json()
    params = jax.jit(lambda: unboxed_params(BertForPretraining(model), 0))()
    save_params(directory, params, model=model, experiment=None, tokenizer=tokenizer)
    return directory


def sentences(count, seed):
    """Returns sentences with the word good or bad at a random place."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        words = list(rng.choice(FILLERS, size=rng.integers(1, 9)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(["good", "bad"])))
        drawn.append([str(word) for word in words])
    return drawn


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    """`exported(family, record, **fields)` returns a fine-tuned run and its export."""

    def make(family, record, representation, **fields):
        directory = tmp_path_factory.mktemp(family)
        files = {}
        for seed, (split, count) in enumerate({"train": 64, "dev": 24}.items()):
            file = directory / f"{split}.jsonl"
            records = (json.dumps(record(words)) + "\n" for words in sentences(count, seed))
            file.write_text("".join(records))
            files[split] = f"jsonl:{file}"
        task = TaskConfig(
            family=family, **files, max_length=32, representation=representation, **fields
        )
        config = FineTuningConfig(
            task=task,
            training=TaskTrainingConfig(epochs=6, batch_size=16),
            optimizer=OptimizerConfig(
                learning_rate=3e-3, warmup_steps=0, decay_from="warmup_end", bias_correction=True
            ),
            mesh=MeshConfig(data=1),
        )
        finetune(config, pretrained, directory / "run")
        run = load_run(directory / "run")
        (directory / "export").mkdir()
        save_run(run, directory / "export", to="huggingface")
        return run, directory / "export"

    return make


def opened(model_class, directory):
    model, loading = model_class.from_pretrained(directory, output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval(), AutoTokenizer.from_pretrained(directory)


def test_a_sentiment_model_gives_the_same_labels(exported):
    def record(words):
        return {"text": " ".join(words), "label": "good" if "good" in words else "bad"}

    run, directory = exported("classification", record, "pooled")
    model, tokenizer = opened(AutoModelForSequenceClassification, directory)
    texts = [" ".join(words) for words in sentences(40, 9)]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    best = torch.softmax(logits, -1).max(-1)
    found = run.predict(texts)
    labels = [model.config.id2label[int(i)] for i in best.indices]
    assert [one["label"] for one in found] == labels and len(set(labels)) == 2
    # float32 sums have another order.
    np.testing.assert_allclose([one["probability"] for one in found], best.values, atol=1e-4)


def test_a_tagging_model_gives_the_same_tags(exported):
    tags = {"good": "B-Q", "bad": "B-Q", "film": "I-Q"}

    def record(words):
        return {"text": words, "label": [tags.get(word, "O") for word in words]}

    run, directory = exported("tagging", record, "last")
    model, tokenizer = opened(AutoModelForTokenClassification, directory)
    texts = [" ".join(words) for words in sentences(40, 9)]
    seen = set()
    for text, answer in zip(texts, run.predict(texts), strict=True):
        encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        spans = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            best = torch.softmax(model(**encoded).logits[0], -1).max(-1)
        of_start = {
            start: (model.config.id2label[int(i)], float(p))
            for (start, end), i, p in zip(spans, best.indices, best.values, strict=True)
            if end > start
        }
        for tag in answer["tags"]:
            expected, probability = of_start[tag["start"]]
            assert tag["tag"] == expected and text[tag["start"] : tag["end"]] == tag["text"]
            assert tag["probability"] == pytest.approx(probability, abs=1e-4)
            seen.add(expected)
    assert seen == {"B-Q", "I-Q", "O"}


def test_a_question_answering_model_gives_the_same_answers(exported):
    question = "who is good ?"

    def record(words):
        answer = "good" if "good" in words else "bad"
        return {"q": question, "p": " ".join(words), "label": answer}

    fields = {"text": "q", "text_pair": "p", "max_question_length": 6}
    run, directory = exported("question_answering", record, "last", **fields)
    model, tokenizer = opened(AutoModelForQuestionAnswering, directory)
    passages = [" ".join(words) for words in sentences(40, 9)]
    found = run.predict([{"question": question, "context": passage} for passage in passages])
    for passage, answer in zip(passages, found, strict=True):
        encoded = tokenizer(question, passage, return_tensors="pt", return_offsets_mapping=True)
        spans = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            output = model(**encoded)
        inside = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        start, end = (logits[0, inside] for logits in (output.start_logits, output.end_logits))
        scores = (start[:, None] + end[None]).triu()
        scores[torch.ones_like(scores).tril(-1) > 0] = -torch.inf
        best = int(scores.argmax())
        first, last = divmod(best, len(inside))
        begin, stop = spans[inside[first]][0], spans[inside[last]][1]
        assert (answer["start"], answer["end"]) == (begin, stop)
        assert answer["answer"] == passage[begin:stop]
        probability = float(torch.softmax(scores.flatten(), 0)[best])
        assert answer["probability"] == pytest.approx(probability, abs=1e-4)
    assert {answer["answer"] for answer in found} >= {"good", "bad"}
