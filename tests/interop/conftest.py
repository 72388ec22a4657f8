"""What the tests of this folder share; the functions are in layouts.py."""

import pytest
from layouts import LAYOUTS, random_tensors


@pytest.fixture
def pretraining():
    """Tensors as BertForPreTraining saves them."""
    return random_tensors(LAYOUTS["BertForPreTraining"])
