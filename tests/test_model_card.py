"""The model card of an export says what the passport, the config and the result say."""

import json
import re
from dataclasses import replace

import pytest

from bert_jax.config import override
from bert_jax.models.flops import update_flops
from bert_jax.runs.load import load_run
from bert_jax.runs.model_card import model_card
from bert_jax.runs.save import save_run


@pytest.fixture(scope="module")
def run(two_phase_run):
    return load_run(two_phase_run[0])


def cells(card, name):
    row = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.MULTILINE)
    assert row, name
    return row[1].split(" | ")


def test_a_card_describes_data_training_and_evaluation(run):
    card = model_card(run, "mine")
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n")
    assert "\nlanguage: en\n---\n" in card
    assert "pieces. The text is lower-cased, and accents are removed." in card
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        *("# mine", "## Data", "## Training", "## Evaluation", "## Limits")
    ]
    source = run.passport["corpus"]["sources"][0]
    assert cells(card, f"`{source['spec']}`") == ["1.0", source["licence"] or "not stated"]
    train = run.passport["splits"]["train"]
    assert cells(card, "train") == [f"{train['documents']:,}", f"{train['tokens']:,}"]
    result = json.loads((run.path / "result.json").read_text())
    for name, metric, baseline in (
        ("masked words: loss (nats)", "mlm_loss", "unigram_loss"),
        ("masked words: accuracy", "mlm_accuracy", "majority_token_accuracy"),
        ("pairs: accuracy", "nsp_accuracy", "nsp_majority_accuracy"),
    ):
        model, beside = cells(card, name)
        assert model == f"{result[metric]:.4f}"
        assert beside.startswith(f"{result[baseline]:.4f} (")
    environment = json.loads((run.path / "environment.json").read_text())
    assert cells(card, "hardware") == [f"{len(environment['devices'])} x cpu"]
    assert cells(card, "commit of bert_jax") == [environment["commit"]]
    assert "- Positions after 48 tokens are untrained." in card


def test_a_card_shows_the_fields_that_the_command_changed(run, tmp_path):
    words = "pretrain.py --experiment a_b.py --workdir=w --set=seed=1 --set x=[1, 2]"
    command = words.split(" ", 6)
    (tmp_path / "environment.json").write_text(json.dumps({"command": command}))
    (chosen, *_) = cells(model_card(replace(run, path=tmp_path), "mine"), "experiment or preset")
    assert chosen.startswith("`--experiment a_b.py --set=seed=1 --set 'x=[1, 2]'`, config ")


def test_tokens_and_flops_are_those_of_the_updates(run):
    config = override(run.config, {"phases": ()})
    card = model_card(replace(run, config=config, step=2), "mine")
    train, data = run.passport["splits"]["train"], config.data
    row = train["positions"] / train["examples"]
    assert cells(card, "tokens seen") == [f"about {2 * data.batch_size * row:.3g}"]
    cost = update_flops(
        config.model,
        pair_lengths=[round(row)] * data.batch_size,
        predictions=round(data.batch_size * row * data.masking.rate),
    )
    assert cells(card, "FLOPs of matrix products") == [f"about {2 * cost:.3g}"]


def test_a_card_of_a_copy_has_no_numbers_of_step_0(run, tmp_path):
    save_run(run, tmp_path, to="bert_jax")
    card = model_card(load_run(tmp_path), "mine")
    assert "or copied from a run. See `conversion.txt`." in card
    assert not re.search("updates|tokens seen|FLOPs|step 0", card)


def test_a_card_says_what_is_not_known(run):
    card = model_card(replace(run, config=None, passport=None, path=run.path / "moved"), "mine")
    assert "The training data are not known." in card
    assert "converted from another implementation" in card
    assert "No evaluation on held-out text is known." in card
