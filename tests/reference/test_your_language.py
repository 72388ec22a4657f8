"""transformers opens what the five commands of docs/your-language.md make of Finnish text."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from your_language import finnish_lines, run_page

from bert_jax import load_run


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("your_language")
    for result in run_page(directory):
        assert result.returncode == 0, result.stderr
    return directory


def test_ids_are_equal_on_ten_thousand_lines(directory):
    """The lines are the texts of the corpus, and random pairs of them."""
    texts, draw = finnish_lines(), random.Random(0)
    pairs = {" ".join(draw.sample(texts, 2)) for _ in range(11_000)}
    lines = [*texts, *sorted(pairs)][:10_000]
    theirs = AutoTokenizer.from_pretrained(directory / "mine-hf")
    ours = load_run(directory / "runs" / "mine").tokenizer
    assert len(set(lines)) == 10_000 and len(theirs) == ours.vocab_size
    found = theirs(lines)["input_ids"]
    expected = [[ours.cls_id, *ours.encode(line), ours.sep_id] for line in lines]
    assert found == expected
    assert theirs.decode(found[0], skip_special_tokens=True)


def test_masks_are_filled_with_the_same_pieces(directory):
    model = AutoModelForMaskedLM.from_pretrained(directory / "mine-hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(directory / "mine-hf")
    run = load_run(directory / "runs" / "mine")
    for text in ("Avaa [MASK].", "Tallenna [MASK] ja sulje ikkuna.", "[MASK]"):
        (ours,) = run.fill_mask(text, top_k=10)
        inputs = tokenizer(text, return_tensors="pt")
        position = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            best = torch.softmax(model(**inputs).logits[0, position], -1).topk(10)
        assert [f.piece for f in ours] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
        np.testing.assert_allclose([f.probability for f in ours], best.values, rtol=1e-4)


def test_the_card_is_complete(directory):
    card = (directory / "mine-hf" / "README.md").read_text(encoding="utf-8")
    for part in ("language: fi", "licence", "tokens seen", "FLOPs", "hardware", "commit"):
        assert part in card, part
    for part in ("masked words: loss", "pairs: accuracy", "## Limits", "at most 128 tokens"):
        assert part in card, part
    assert "Capitals are kept, and accents are kept." in card and "pipeline_tag: fill-mask" in card
    assert "not known" not in card
