"""Each field that a preset fixes has an effect, and its value is that of the source.

These tests change every fixed field. This must change an example, a logit, the loss or an update,
and no earlier stage. PROOFS names the test that compares the field's effect with its source.
"""

import ast
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.config import flatten, load_experiment, override
from bert_jax.config.__main__ import difference_table
from bert_jax.data.masking import BatchForm, masked_batch
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers.train_wordpiece import train_wordpiece
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES
from bert_jax.models.bert import BertForPretraining
from bert_jax.training.experiment import phases
from bert_jax.training.optim import learning_rate_schedule, make_optimizer, restart_moments
from bert_jax.training.state import init_params
from bert_jax.training.step import pretraining_loss

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PRESETS = ("devlin2018", "google_bert_tf1", "hf_bert", "nvidia_lamb", "mlperf", "textbook")
SPECS = [f"experiments/presets.py:{name}" for name in PRESETS]

SIZES = (
    *("data.directory", "data.batch_size", "data.sequence_length"),
    *("data.masking.max_predictions", "data.evaluation_masking.max_predictions"),
    *("model.hidden_size", "model.num_layers", "model.num_heads"),
    *("model.dtype", "model.scan_layers", "evaluation.batch_size", "evaluation.max_examples"),
    *("training.steps", "training.microbatches", "training.log_every"),
    *("training.eval_every", "training.checkpoint_every"),
    *("phases", "phases.0.steps", "phases.0.changes.training.microbatches"),
    *("phases.0.changes.data.directory", "phases.0.changes.data.sequence_length"),
    *("phases.0.changes.data.batch_size", "phases.0.changes.data.masking.max_predictions"),
    "phases.0.changes.data.evaluation_masking.max_predictions",
)
"""Fields for the size of a run and for its computation, which may differ between presets."""

FLIPS = {
    "data.max_word_length": (10, "example"),
    "data.single_text_separator": (False, "example"),
    "data.masking.count": ("drawn", "example"),
    "data.masking.split": ((1.0, 0.0, 0.0), "example"),
    "data.masking.static": (False, "example"),
    "model.initializer": ("normal", "logit"),
    "model.initializer_stddev": (0.05, "logit"),
    "model.activation": ("gelu_tanh", "logit"),
    "model.layer_norm_epsilon": (1e-3, "logit"),
    "model.dropout": (0.0, "loss"),
    "model.attention_dropout": (0.0, "loss"),
    "objective.mlm_reduction": ("sum", "loss"),
    "objective.next_sentence": (False, "loss"),
    "optimizer.name": ("lamb", "update"),
    "optimizer.learning_rate": (2e-3, "update"),
    "optimizer.warmup_steps": (3, "update"),
    "optimizer.warmup_start": (-2, "update"),
    "optimizer.first_step": (1, "update"),
    "optimizer.schedule": ("constant", "update"),
    "optimizer.power": (0.5, "update"),
    "optimizer.decay_from": ("warmup_end", "update"),
    "optimizer.bias_correction": (True, "update"),
    "optimizer.beta1": (0.5, "update"),
    "optimizer.beta2": (0.5, "update"),
    "optimizer.epsilon": (1e-2, "update"),
    "optimizer.weight_decay": (0.1, "update"),
    "optimizer.max_grad_norm": (0.1, "update"),
    "optimizer.decay_excludes": ("nothing", "update"),
    "optimizer.trust_ratio": ("all", "update"),
    "phases.0.own_schedule": (True, "update"),
    "phases.0.changes.optimizer.learning_rate": (2e-3, "update"),
    "phases.0.changes.optimizer.warmup_steps": (1, "update"),
    "phases.0.moments": ("zeroed", "update"),
}
"""Field -> another value, and the first stage (example, logit, loss, update) that it changes."""

RATE = "training/test_optim.py::test_each_setting_changes_the_rate_by_its_formula"
SEAM = "test_phases.py::test_the_schedule_continues_or_each_phase_has_its_own"
UPDATE = "training/test_optim.py::test_each_setting_changes_the_first_update_by_its_formula"
RATE_FIELDS = ("learning_rate", "warmup_steps", "warmup_start", "first_step", "power", "decay_from")
UPDATE_FIELDS = ("name", "beta1", "beta2", "epsilon", "bias_correction", "weight_decay")

# Fields with the same value in all presets.
COMMON = {
    "model.layer_norm_epsilon": (
        "models/test_bert.py::test_every_layer_norm_uses_the_epsilon_of_the_config"
    ),
    "model.initializer_stddev": (
        "models/test_bert.py::test_initial_parameters_have_the_mean_and_deviation_of_the_recipe"
    ),
    "model.dropout": (
        "models/test_bert.py::test_dropout_acts_at_the_places_of_the_recipe_and_only_in_training"
    ),
    "model.attention_dropout": (
        "models/test_bert.py::test_dropout_acts_at_the_places_of_the_recipe_and_only_in_training"
    ),
    "optimizer.decay_excludes": UPDATE,
    "optimizer.max_grad_norm": UPDATE,
    "optimizer.trust_ratio": UPDATE,
}

PROOFS = {
    **{f"optimizer.{name}": RATE for name in RATE_FIELDS},
    **{f"optimizer.{name}": UPDATE for name in UPDATE_FIELDS},
    "phases.0.own_schedule": SEAM,
    "phases.0.changes.optimizer.learning_rate": SEAM,
    "phases.0.changes.optimizer.warmup_steps": SEAM,
    "phases.0.moments": "training/test_optim.py::test_moments_at_the_start_of_a_phase",
    "data.max_word_length": "data/test_wordpiece.py::test_words_longer_than_the_limit_are_unknown",
    "data.single_text_separator": (
        "data/test_masking.py::test_a_single_text_without_separator_ends_with_its_text"
    ),
    "data.masking.count": (
        "data/test_masking.py::test_drawn_counts_are_binomial_over_words_without_special_tokens"
    ),
    "data.masking.split": (
        "data/test_masking.py::test_shares_of_masks_random_words_and_kept_words"
    ),
    "data.masking.static": (
        "data/test_pipeline.py::"
        "test_a_record_has_another_mask_in_each_epoch_unless_masks_are_static"
    ),
    "model.initializer": "models/test_layers.py::test_normal_initializer_is_not_truncated",
    "model.activation": (
        "models/test_layers.py::test_gelu_tanh_equals_the_formula_of_the_published_code"
    ),
    "objective.mlm_reduction": (
        "training/test_losses_and_metrics.py::"
        "test_sum_reduction_sums_within_a_pair_and_averages_over_pairs"
    ),
}
"""A field that differs between presets -> the test that compares its effect with the source."""


# ---- The values of the sources ------------------------------------------------------------------
# The values are copied by hand from the sources, with their places there, and not from the presets.

DEVLIN = {
    # google-research/bert, create_pretraining_data.py: dupe_factor, short_seq_prob,
    # masked_lm_prob; README "Pre-training with BERT": max_predictions_per_seq=20 at 128.
    "data.dupe_factor": 10,
    "data.short_sequence_probability": 0.1,
    "data.masking.rate": 0.15,
    "data.masking.max_predictions": 20,
    "data.masking.split": (0.8, 0.1, 0.1),  # the paper, 3.1, task 1
    # modeling.py, BertConfig and layer_norm; bert_base/bert_config.json.
    "model.vocab_size": 30522,
    "model.hidden_size": 768,
    "model.num_layers": 12,
    "model.num_heads": 12,
    "model.feed_forward_size": 3072,
    "model.max_positions": 512,
    "model.dropout": 0.1,  # hidden_dropout_prob
    "model.attention_dropout": 0.1,  # attention_probs_dropout_prob
    "model.activation": "gelu_erf",  # before commit bee6030
    "model.initializer": "truncated_normal",  # create_initializer
    "model.initializer_stddev": 0.02,  # initializer_range
    "model.layer_norm_epsilon": 1e-12,  # tf.contrib.layers.layer_norm
    # The paper, A.2: 256 rows, 1,000,000 steps, Adam at 1e-4, warm-up of 10,000, dropout 0.1.
    "data.batch_size": 256,
    "data.sequence_length": 128,
    "training.steps": 1_000_000,
    "optimizer.learning_rate": 1e-4,
    "optimizer.warmup_steps": 10_000,
    # optimization.py: create_optimizer and AdamWeightDecayOptimizer.
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.epsilon": 1e-6,
    "optimizer.weight_decay": 0.01,
    "optimizer.bias_correction": False,
    "optimizer.max_grad_norm": 1.0,  # clip_by_global_norm
    "optimizer.power": 1.0,  # tf.train.polynomial_decay
    "optimizer.decay_from": "start",
    # The paper, A.2: 90 % of the steps at 128 tokens, the rest at 512.
    "phases.0.steps": 100_000,
    "phases.0.own_schedule": False,
    "phases.0.changes.data.sequence_length": 512,
    "phases.0.changes.data.masking.max_predictions": 77,  # 0.15 * 512, rounded
}

LARGE = {  # bert_large/bert_config.json
    "model.hidden_size": 1024,
    "model.num_layers": 24,
    "model.num_heads": 16,
    "model.feed_forward_size": 4096,
}

SOURCES = {
    "devlin2018": DEVLIN,
    "google_bert_tf1": DEVLIN
    | {
        # run_pretraining.py: train_batch_size, num_train_steps, learning_rate, num_warmup_steps.
        "data.batch_size": 32,
        "training.steps": 100_000,
        "optimizer.learning_rate": 5e-5,
        "optimizer.warmup_steps": 10_000,
        "model.activation": "gelu_tanh",  # modeling.py, gelu
        "phases": None,
    },
    "hf_bert": DEVLIN
    | {
        # transformers: modeling_bert.py, _init_weights; DataCollatorForLanguageModeling draws each
        # token; TrainingArguments.adam_epsilon; torch.optim.AdamW, with bias correction;
        # get_linear_schedule_with_warmup.
        "model.initializer": "normal",
        "data.masking.count": "drawn",
        "data.masking.max_predictions": 40,  # no limit there
        "data.max_word_length": 100,  # WordpieceTokenizer.max_input_chars_per_word
        "optimizer.epsilon": 1e-8,
        "optimizer.bias_correction": True,
        "optimizer.decay_from": "warmup_end",
        "phases.0.changes.data.masking.max_predictions": 120,
    },
    "nvidia_lamb": DEVLIN
    | LARGE
    | {
        # DeepLearningExamples, PyTorch/LanguageModeling/BERT, scripts/run_pretraining.sh and
        # README "Pre-training parameters"; schedulers.py: PolyWarmUpScheduler(degree=0.5).
        "data.batch_size": 65_536,
        "training.steps": 7_038 + 1_563,
        "optimizer.name": "lamb",
        "optimizer.learning_rate": 6e-3,
        "optimizer.warmup_steps": round(0.2843 * 7_038),
        "optimizer.power": 0.5,
        "optimizer.first_step": 1,
        "optimizer.bias_correction": True,  # apex FusedLAMB
        "model.initializer": "normal",  # modeling.py, init_bert_weights
        "phases.0.steps": 1_563,
        "phases.0.own_schedule": True,
        "phases.0.moments": "recounted",
        "phases.0.changes.data.batch_size": 32_768,
        "phases.0.changes.data.masking.max_predictions": 80,
        "phases.0.changes.optimizer.learning_rate": 4e-3,
        "phases.0.changes.optimizer.warmup_steps": round(0.128 * 1_563),
    },
    "mlperf": DEVLIN
    | LARGE
    | {
        # mlcommons/training, language_model/tensorflow/bert, README "Running the Model on TPU".
        "data.batch_size": 8_192,
        "data.sequence_length": 512,
        "data.masking.max_predictions": 76,
        "training.steps": 600,
        "optimizer.name": "lamb",
        "optimizer.learning_rate": 0.00288293,
        "optimizer.warmup_steps": 287,
        "optimizer.warmup_start": -76,  # start_warmup_step
        "optimizer.beta1": 0.88,
        "optimizer.beta2": 0.88,
        "optimizer.weight_decay": 0.0166629,
        "optimizer.bias_correction": True,
        "model.activation": "gelu_tanh",
        "evaluation.max_examples": 10_000,
        "phases": None,
    },
    "textbook": DEVLIN
    | {
        "data.masking.split": (1.0, 0.0, 0.0),
        "data.single_text_separator": False,
        "objective.mlm_reduction": "sum",
    },
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_values_of_its_source(name):
    preset = load_experiment(f"{ROOT / 'experiments' / 'presets.py'}:{name}")
    found = flatten(preset) | {"model.feed_forward_size": preset.model.feed_forward_size}
    wanted = dict(SOURCES[name])
    if "phases" in wanted:  # the source has a single phase
        assert preset.phases == ()
        wanted = {field: value for field, value in wanted.items() if "phases" not in field}
    assert {field: found[field] for field in wanted} == wanted


def presets():
    return [load_experiment(str(ROOT / spec)) for spec in SPECS]


def fixed_fields():
    """Returns the fields that differ between presets, without SIZES."""
    columns = [flatten(preset) for preset in presets()]
    return [
        field
        for field in dict.fromkeys(field for column in columns for field in column)
        if field not in SIZES and len({str(column.get(field)) for column in columns}) > 1
    ]


@cache
def small():
    """Returns the preset devlin2018 with a small model."""
    overrides = {
        "model.vocab_size": 64,
        "model.hidden_size": 16,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "data.batch_size": 8,
        "data.sequence_length": 32,
        "data.masking.max_predictions": 8,
        "training.steps": 6,
        "phases.0.steps": 3,
        "optimizer.warmup_steps": 2,
        "optimizer.learning_rate": 1e-3,
    }
    return override(load_experiment(str(ROOT / SPECS[0])), overrides)


def examples(experiment):
    """Returns masked rows of the second epoch: pairs, single texts and a word of 12 characters."""
    data = experiment.data
    words = {"president": 9, "congress": 8, "constitution": 7, "peace": 6}
    tokenizer = train_wordpiece(
        words, vocab_size=50, lower_case=True, max_word_length=data.max_word_length
    )
    text = tokenizer.encode("president congress constitution peace")
    pairs = [Pair(text, text[: row % 2 * 3], row % 2) for row in range(data.batch_size)]
    form = BatchForm(
        batch_size=data.batch_size,
        sequence_length=data.sequence_length,
        tokenizer=tokenizer,
        single_text_separator=data.single_text_separator,
    )
    return masked_batch(
        [[pair] for pair in pairs],
        form=form,
        addresses=[(1, row) for row in range(len(pairs))],
        seed=experiment.seed,
        config=data.masking,
    )


def logits(experiment):
    model = BertForPretraining(experiment.model)
    params = nn.unbox(init_params(model, experiment.seed))
    # Biases of 0 and scales of 1 would hide errors.
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)
    return model.apply({"params": params}, jax.tree.map(jnp.asarray, examples(small())))


def loss(experiment):
    model = BertForPretraining(experiment.model)
    params = nn.unbox(init_params(model, experiment.seed))
    batch = jax.tree.map(jnp.asarray, examples(small()))
    rng = jax.random.key(0)
    return pretraining_loss(
        params, batch, dropout_rng=rng, model=model, objective=experiment.objective
    )[0]


def updates(experiment):
    """Returns a matrix, a bias and a scale after updates of two phases with the same gradients."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (6, 4), "bias": (4,), "scale": (4,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    state = None
    for phase in phases(experiment):
        config, steps = phase.experiment.optimizer, phase.experiment.training.steps
        schedule = learning_rate_schedule(config, steps=steps, start=phase.schedule_start)
        optimizer = make_optimizer(config, schedule)
        fresh = optimizer.init(params)
        state = restart_moments(state or fresh, fresh, moments=phase.moments)
        for _ in range(phase.steps):
            draws = {name: rng.normal(size=shape) for name, shape in shapes.items()}
            update, state = optimizer.update(jax.tree.map(jnp.asarray, draws), state, params)
            params = jax.tree.map(jnp.add, params, update)
    return params


STAGES = {"example": examples, "logit": logits, "loss": loss, "update": updates}


@cache
def unflipped(stage, base):
    return STAGES[stage](base)


# The stages after the example compile a model and an optimizer, which takes minutes together.
FLIP_MARKS = [
    pytest.param(field, marks=[pytest.mark.slow] * (not field.startswith("data.")))
    for field in FLIPS
]


@pytest.mark.parametrize("field", FLIP_MARKS)
def test_a_changed_field_changes_its_stage_and_no_earlier_stage(field):
    value, changes = FLIPS[field]
    base = small()
    if field == "optimizer.trust_ratio":
        base = override(base, {"optimizer.name": "lamb"})
    if field.startswith("phases.0.changes.optimizer"):
        base = override(base, {"phases.0.own_schedule": True})
    flipped = override(base, {field: value})
    assert flipped != base
    for stage, run in STAGES.items():
        before = jax.tree.leaves(unflipped(stage, base))
        after = jax.tree.leaves(run(flipped))
        same = all(np.array_equal(*both) for both in zip(before, after, strict=True))
        assert same == (stage != changes), stage
        if not same:
            return


def test_every_fixed_field_is_changed_and_has_a_proof():
    fixed = fixed_fields()
    assert len(fixed) > 10
    assert set(fixed) <= FLIPS.keys()
    assert set(fixed) == PROOFS.keys()
    assert COMMON.keys() <= FLIPS.keys() - PROOFS.keys()
    for field, proof in (COMMON | PROOFS).items():
        file, _, name = proof.partition("::")
        functions = ast.walk(ast.parse((TESTS / file).read_text()))
        assert name in {node.name for node in functions if isinstance(node, ast.FunctionDef)}, field


def test_the_textbook_differs_from_the_paper_in_its_masks():
    textbook, paper = presets()[-1], presets()[0]
    assert (
        replace(
            textbook,
            objective=paper.objective,
            data=replace(textbook.data, masking=paper.data.masking, single_text_separator=True),
        )
        == paper
    )
    rows = examples(override(small(), {"data.masking.split": textbook.data.masking.split}))
    mask_id = SPECIAL_PIECES.index("[MASK]")
    masked = np.take_along_axis(rows.token_ids, rows.mask_positions, 1)
    assert (masked[rows.mask_weights > 0] == mask_id).all()


def test_the_recipe_page_shows_the_presets():
    page = (ROOT / "docs" / "recipe.md").read_text()
    assert difference_table(SPECS, presets()) in page
