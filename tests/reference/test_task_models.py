"""transformers' task classes open fine-tuned models, and torch makes the same updates."""

import copy
from dataclasses import replace

import huggingface
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from huggingface import EAGER, Recipe

from bert_jax.config import to_json
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.runs.load import load_run
from bert_jax.runs.run import Run
from bert_jax.runs.save import save_run
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.tasks.families.family import TaskBatch
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.state import make_model, make_task_optimizer, task_logits, task_step
from bert_jax.training.checkpoint import save_params
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.state import TrainState, unboxed_params

MODEL = BertConfig(
    vocab_size=100,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    max_positions=32,
    dropout=0.0,
    attention_dropout=0.0,
    # Large, so that outputs differ between rows and positions.
    initializer_stddev=0.2,
    scan_layers=True,
)
LABELS = {"classification": ("no", "maybe", "yes"), "tagging": ("O", "B-PER", "I-PER")}
CLASSES = {
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "tagging": "BertForTokenClassification",
    "question_answering": "BertForQuestionAnswering",
    "multiple_choice": "BertForMultipleChoice",
}
TOKENIZER = WordPiece(
    pieces=(*SPECIAL_PIECES, *(f"word{i}" for i in range(MODEL.vocab_size - 5))), lower_case=True
)


def configuration(family):
    of_tokens = family in ("tagging", "question_answering")
    return FineTuningConfig(
        task=TaskConfig(
            family=family,
            train="tsv:a",
            dev="tsv:b",
            max_length=16,
            max_question_length=4,
            representation="last" if of_tokens else "pooled",
        ),
        training=TaskTrainingConfig(warmup_fraction=0.25),
    )


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """`fine_tuned(family)` returns a fine-tuned run and its export for transformers."""
    made = {}
    encoder = jax.jit(lambda: unboxed_params(BertForPretraining(MODEL), 0))()["bert"]

    def make(family):
        if family in made:
            return made[family]
        directory = tmp_path_factory.mktemp(family)
        labels = LABELS.get(family, ("0", "1", "2") if family == "multiple_choice" else ())
        model = make_model(configuration(family), MODEL, FAMILIES[family], labels)
        rng = np.random.default_rng(0)
        output = {
            "kernel": rng.normal(size=(32, model.head.outputs)).astype(np.float32),
            "bias": rng.normal(size=model.head.outputs).astype(np.float32),
        }
        save_params(
            directory / "ours",
            {"bert": encoder, "output": output},
            model=MODEL,
            experiment=None,
            tokenizer=TOKENIZER.to_json(),
            head=to_json(model.head),
        )
        (directory / "theirs").mkdir()
        run = load_run(directory / "ours")
        save_run(run, directory / "theirs", to="huggingface")
        made[family] = run, directory / "theirs"
        return made[family]

    return make


def rows(seed, shape):
    """Returns ids, segments and mask [..., 16]; all rows but the first have padding."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, MODEL.vocab_size, (*shape, 16))
    lengths = rng.integers(6, 16, shape)
    lengths.flat[0] = 16
    mask = np.arange(16) < lengths[..., None]
    segments = (np.arange(16) >= 5) & mask
    return {
        "input_ids": ids * mask,
        "token_type_ids": segments.astype(np.int64),
        "attention_mask": mask.astype(np.int64),
    }


def as_task_batch(batch, labels, weights):
    """Returns the rows as [B, C, S], where C is 1 outside multiple choice."""
    arrays = [np.asarray(batch[name], np.int32) for name in batch if name != "labels"]
    arrays = [array[:, None] if array.ndim == 2 else array for array in arrays]
    return TaskBatch(*arrays, labels, weights)


def open_in_torch(directory, family):
    model_class = getattr(transformers, CLASSES[family])
    model, loading = model_class.from_pretrained(directory, output_loading_info=True, **EAGER)
    assert not any(loading.values()), loading  # missing, unexpected, mismatched
    automatic = transformers.AutoConfig.from_pretrained(directory)
    assert automatic.architectures == [CLASSES[family]]
    return model


@pytest.mark.parametrize("family", CLASSES)
def test_transformers_opens_it_and_gives_the_same_logits(family, fine_tuned):
    run, directory = fine_tuned(family)
    theirs = open_in_torch(directory, family)
    batch = rows(0, (4, 3) if family == "multiple_choice" else (4,))
    with torch.no_grad():
        output = theirs(**huggingface.to_torch(batch))
    if family == "question_answering":
        expected = torch.stack([output.start_logits, output.end_logits], dim=-1).numpy()
    else:
        expected = output.logits.numpy()
    weights = np.ones(4, np.float32)
    found = jax.jit(task_logits, static_argnums=0)(
        run.model, run.params, as_task_batch(batch, weights, weights)
    )
    found = np.asarray(found).reshape(expected.shape)
    assert np.ptp(expected) > 1
    # float32 sums in another order in every layer: 8e-6 was measured for values up to 10.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    if family in LABELS:
        assert tuple(theirs.config.id2label.values()) == LABELS[family]


def test_the_loss_of_a_question_agrees_on_rows_without_padding(fine_tuned):
    """transformers includes padding in the softmax, and we do not."""
    run, directory = fine_tuned("question_answering")
    batch = {name: ids[:1] for name, ids in rows(0, (4,)).items()}
    assert batch["attention_mask"].all()
    labels = {"start_positions": np.array([3]), "end_positions": np.array([7])}
    theirs = open_in_torch(directory, "question_answering").eval()
    with torch.no_grad():
        expected = float(theirs(**huggingface.to_torch(batch | labels)).loss)
    ours = as_task_batch(batch, np.array([[3, 7]], np.int32), np.ones(1, np.float32))
    logits = jax.jit(task_logits, static_argnums=0)(run.model, run.params, ours)
    found = float(FAMILIES["question_answering"].loss(logits, ours).compute())
    assert expected > 1
    # The tolerance of the logits above.
    assert found == pytest.approx(expected, abs=2e-5)


STEPS = 8


def test_a_fine_tuning_makes_the_updates_of_torch(fine_tuned):
    """Compares the loss of every update, and all parameters after the last.

    They depend on schedule, AdamW with bias correction, parameters without decay, and clipping.
    """
    run, directory = fine_tuned("classification")
    assert isinstance(run, Run)
    rate = 1e-3
    config = replace(
        configuration("classification"),
        optimizer=OptimizerConfig(
            learning_rate=rate,
            warmup_steps=0,
            decay_from="warmup_end",
            bias_correction=True,
            epsilon=1e-6,
            weight_decay=0.1,
        ),
    )
    batches = []
    for seed in range(STEPS):
        labels = np.random.default_rng(100 + seed).integers(0, 3, 4)
        batches.append(rows(seed, (4,)) | {"labels": labels})

    theirs = copy.deepcopy(open_in_torch(directory, "classification")).train()
    start = {name: p.detach().numpy().copy() for name, p in theirs.named_parameters()}
    recipe = Recipe(rate, warmup_steps=2, steps=STEPS, weight_decay=0.1, epsilon=1e-6)
    losses = huggingface.train(theirs, batches, recipe)

    optimizer, schedule = make_task_optimizer(config, steps=STEPS)
    update = jax.jit(
        lambda state, batch: task_step(
            state,
            batch,
            jax.random.key(0),
            model=run.model,
            family=FAMILIES["classification"],
            optimizer=optimizer,
            schedule=schedule,
        )
    )
    state = TrainState(jnp.zeros((), jnp.int32), run.params, optimizer.init(run.params))
    found = []
    for batch in batches:
        labels = np.asarray(batch["labels"], np.int32)
        state, metrics = update(state, as_task_batch(batch, labels, np.ones(4, np.float32)))
        found.append(float(metrics["loss"].compute()))
    # Measured 9e-6; with decay of LayerNorm's scale and of biases 5e-4.
    np.testing.assert_allclose(found, losses, rtol=1e-4)

    after = directory.parent / "after"
    after.mkdir()
    save_run(replace(run, params=jax.device_get(state.params)), after, to="huggingface")
    ours = dict(open_in_torch(after, "classification").named_parameters())
    for name, parameter in theirs.named_parameters():
        if name.endswith("self.key.bias"):
            continue  # its exact gradient is 0, and Adam scales up rounding errors
        expected = parameter.detach().numpy()
        change = np.linalg.norm(expected - start[name])
        assert change > 0, name
        # Relative to the parameter's change; measured at most 4e-5.
        error = np.linalg.norm(ours[name].detach().numpy() - expected) / change
        assert error < 1e-3, f"{name}: {error}"
