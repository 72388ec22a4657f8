"""The families of tasks by their names in `task.family`."""

from bert_jax.tasks.classification import CLASSIFICATION
from bert_jax.tasks.family import Family
from bert_jax.tasks.regression import REGRESSION

FAMILIES: dict[str, Family] = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
}
