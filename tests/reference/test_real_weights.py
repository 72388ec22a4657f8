"""With real weights, outputs, loss, gradients and updates equal those of Hugging Face's BERT."""

import copy

import conformance
import huggingface
import numpy as np
import pytest
from huggingface import Recipe

# Float32 sums in another order in every layer. Measured: 1.1e-5 for hidden states and 8.2e-6 for
# attention probabilities, from torch in float64; 9.4e-6 for outputs, from torch in float32.
ABSOLUTE = 2e-5


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        assert np.ptp(theirs[name]) > 0.1, name
        np.testing.assert_allclose(found, theirs[name], rtol=0, atol=ABSOLUTE, err_msg=name)


@pytest.mark.parametrize("name", ["rxnfp", "minilm"])
def test_the_encoder_outputs_are_equal_at_every_position(name, request):
    pair = request.getfixturevalue(name)
    for batch in pair.batches[:3]:
        assert not batch["attention_mask"].all()
        # In float32, torch's own rounding is as large: 2.6e-5 for a hidden state of MiniLM, where
        # ours is 4.5e-6.
        encoder = copy.deepcopy(pair.torch_model.bert if name == "rxnfp" else pair.torch_model)
        encoder.double()
        ours = conformance.encode(pair.config, pair.params, conformance.as_batch(batch))
        assert_same(ours, huggingface.encode(encoder, batch))


def test_the_logits_of_both_heads_are_equal(rxnfp):
    for batch in rxnfp.batches[:3]:
        our_batch = conformance.as_batch(batch)
        theirs = huggingface.predict(rxnfp.torch_model, batch)
        theirs["token_logits"] = conformance.at_masked(theirs["token_logits"], our_batch)
        assert_same(conformance.predict(rxnfp.config, rxnfp.params, our_batch), theirs)


def test_the_loss_and_the_gradient_of_every_parameter_are_equal(rxnfp):
    batch = rxnfp.batches[0]
    ours = conformance.gradient(rxnfp.config, rxnfp.params, conformance.as_batch(batch))
    theirs = huggingface.gradient(rxnfp.torch_model, batch)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert ours.by_name.keys() == theirs.by_name.keys()
    for name, found in ours.by_name.items():
        if name.endswith("self.key.bias"):
            # The key bias adds the same number to all scores of a query, so its gradient is 0.
            np.testing.assert_allclose(found, 0, atol=1e-6, err_msg=name)
        else:
            expected = theirs.by_name[name]
            # The largest measured error is 6e-6.
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize(
    "recipe",
    [
        # Warm-up would start with rate 0. Without it, the second loss tests the first update.
        Recipe(learning_rate=1e-4, warmup_steps=0, steps=2),
        Recipe(learning_rate=1e-4, warmup_steps=4, steps=20),
    ],
    ids=["one_step", "twenty_steps"],
)
def test_updates_equal_those_of_torch(rxnfp, recipe):
    """Compares the loss before every update, and every parameter after the last."""
    torch_model = copy.deepcopy(rxnfp.torch_model).train()  # with dropout 0
    batches = rxnfp.batches[: recipe.steps]
    start = {name: p.detach().numpy().copy() for name, p in torch_model.named_parameters()}
    losses = huggingface.train(torch_model, batches, recipe)
    optimizer = conformance.huggingface_optimizer(
        learning_rate=recipe.learning_rate, warmup_steps=recipe.warmup_steps
    )
    ours = conformance.train(
        rxnfp.config,
        rxnfp.params,
        [conformance.as_batch(batch) for batch in batches],
        optimizer,
        steps=recipe.steps,
    )
    # Measured differences are 9e-7 and 5e-6; the losses fall from 18 to 8.
    assert ours.losses == pytest.approx(losses, rel=1e-4)
    for name, parameter in torch_model.named_parameters():
        if name.endswith("self.key.bias"):
            continue  # its exact gradient is 0, and Adam scales up rounding errors
        expected = parameter.detach().numpy()
        # Relative to the parameter's change: 3e-4 was measured, because Adam's first updates have
        # the same size even if a gradient is near 0. Decay of LayerNorm's scale would give 1e-2.
        way = np.linalg.norm(expected - start[name])
        error = np.linalg.norm(ours.by_name[name] - expected) / way
        assert error < 1e-3, f"{name}: {error}"
