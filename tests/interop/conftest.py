"""Fixtures of the interop tests; shared functions are in layouts.py."""

import pytest
from layouts import LAYOUTS, random_tensors


@pytest.fixture
def pretraining():
    """Random tensors with the names and shapes that BertForPreTraining saves."""
    return random_tensors(LAYOUTS["BertForPreTraining"])
