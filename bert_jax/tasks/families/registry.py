"""The families of tasks, by the name that the config field `task.family` has."""

from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import Family
from bert_jax.tasks.families.multiple_choice import MULTIPLE_CHOICE
from bert_jax.tasks.families.question_answering import QUESTION_ANSWERING
from bert_jax.tasks.families.regression import REGRESSION
from bert_jax.tasks.families.tagging import TAGGING

FAMILIES: dict[str, Family] = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "tagging": TAGGING,
    "question_answering": QUESTION_ANSWERING,
    "multiple_choice": MULTIPLE_CHOICE,
}
