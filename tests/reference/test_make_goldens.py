"""The committed goldens equal the output of the script that writes them."""

import json

import make_goldens
import numpy as np
import pytest
from safetensors.numpy import load_file

# Another processor sums in another order during 20 updates. Weights and batches are bitwise equal.
RELATIVE = 1e-4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("goldens") / "tiny_bert"
    make_goldens.make(directory)
    return directory


def test_the_same_files_exist_and_no_others(made):
    names = {path.name for path in make_goldens.DIRECTORY.iterdir()}
    names -= {"flax_model.msgpack"}  # make_flax.py writes it, in an environment of its own
    assert names == {path.name for path in made.iterdir()}
    for name in ("config.json", "vocab.txt"):
        assert (made / name).read_text() == (make_goldens.DIRECTORY / name).read_text(), name


def test_the_weights_are_equal(made):
    committed, again = (
        load_file(directory / "model.safetensors") for directory in (make_goldens.DIRECTORY, made)
    )
    assert committed.keys() == again.keys()
    for name, tensor in committed.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_batches_outputs_and_scalars_are_equal(made):
    with (
        np.load(made / "expected.npz") as again,
        np.load(make_goldens.DIRECTORY / "expected.npz") as committed,
    ):
        assert again.files == committed.files
        for name in again.files:
            # Outputs are of order 1; integers have no rounding.
            atol = 0 if again[name].dtype == np.int32 else 2e-5
            np.testing.assert_allclose(again[name], committed[name], rtol=0, atol=atol)
    again, committed = (
        json.loads((directory / "expected.json").read_text())
        for directory in (made, make_goldens.DIRECTORY)
    )
    assert again.keys() == committed.keys()
    for name in ("made_by", "versions", "recipe"):
        assert again[name] == committed[name]
    for name in ("loss", "training_losses"):
        assert again[name] == pytest.approx(committed[name], rel=RELATIVE)
    for name in ("gradient_norms", "distance_trained"):
        assert again[name].keys() == committed[name].keys()
        for tensor, value in committed[name].items():
            if not tensor.endswith("self.key.bias"):  # what rounding left of a zero gradient
                assert again[name][tensor] == pytest.approx(value, rel=RELATIVE), tensor
