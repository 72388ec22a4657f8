"""The names of every parameter in bert_jax, in Hugging Face's BERT and in Google's BERT.

References:
  https://github.com/google-research/bert (modeling.py, optimization.py)
  https://github.com/huggingface/transformers (models/bert/modeling_bert.py)
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Convention = Literal["huggingface", "google"]

OPTIONAL_PARTS = ("bert/pooler", "masked_token_head", "next_sentence_head")
"""Parts that the loaded weights may lack as a whole. All other parameters form the encoder."""


class Name(NamedTuple):
    """The three names of a parameter. `{layer}` stands for the number of the layer, from 0.

    bert_jax stacks the parameters of all layers: their first dimension is the layer.
    """

    path: str
    huggingface: str
    google: str
    inputs: int = 0
    """Number of input dimensions, such as 2 in [heads, head_size, outputs]; 0 for a vector."""
    transposed: tuple[Convention, ...] = ()
    """Conventions that store the matrix as [outputs, inputs]."""
    padded: bool = False
    """Whether bert_jax pads the first dimension beyond the vocabulary."""

    @property
    def stacked(self) -> bool:
        """Whether every layer has this parameter."""
        return "{layer}" in self.huggingface


def _dense(path: str, huggingface: str, google: str, *, inputs: int = 1) -> Iterator[Name]:
    weight = f"{huggingface}.weight"
    yield Name(f"{path}/kernel", weight, f"{google}/kernel", inputs, transposed=("huggingface",))
    yield Name(f"{path}/bias", f"{huggingface}.bias", f"{google}/bias")


def _layer_norm(path: str, huggingface: str, google: str) -> Iterator[Name]:
    yield Name(f"{path}/scale", f"{huggingface}.LayerNorm.weight", f"{google}/LayerNorm/gamma")
    yield Name(f"{path}/bias", f"{huggingface}.LayerNorm.bias", f"{google}/LayerNorm/beta")


def _embedding(path: str, name: str, *, padded: bool = False) -> Name:
    return Name(
        f"bert/embeddings/{path}",
        f"bert.embeddings.{name}.weight",
        f"bert/embeddings/{name}",
        inputs=1,
        padded=padded,
    )


def _layer(path: str, name: str) -> tuple[str, str, str]:
    google = f"bert/encoder/layer_{{layer}}/{name.replace('.', '/')}"
    return f"bert/layers/{path}", f"bert.encoder.layer.{{layer}}.{name}", google


NAMES = (
    _embedding("token", "word_embeddings", padded=True),
    _embedding("position", "position_embeddings"),
    _embedding("segment", "token_type_embeddings"),
    *_layer_norm("bert/embeddings/layer_norm", "bert.embeddings", "bert/embeddings"),
    *_dense(*_layer("attention/query", "attention.self.query")),
    *_dense(*_layer("attention/key", "attention.self.key")),
    *_dense(*_layer("attention/value", "attention.self.value")),
    *_dense(*_layer("attention/output", "attention.output.dense"), inputs=2),
    *_layer_norm(*_layer("attention_layer_norm", "attention.output")),
    *_dense(*_layer("feed_forward/intermediate", "intermediate.dense")),
    *_dense(*_layer("feed_forward/output", "output.dense")),
    *_layer_norm(*_layer("feed_forward_layer_norm", "output")),
    *_dense("bert/pooler/dense", "bert.pooler.dense", "bert/pooler/dense"),
    *_dense(
        "masked_token_head/transform",
        "cls.predictions.transform.dense",
        "cls/predictions/transform/dense",
    ),
    *_layer_norm(
        "masked_token_head/layer_norm", "cls.predictions.transform", "cls/predictions/transform"
    ),
    Name(
        "masked_token_head/bias", "cls.predictions.bias", "cls/predictions/output_bias", padded=True
    ),
    Name(
        "next_sentence_head/dense/kernel",
        "cls.seq_relationship.weight",
        "cls/seq_relationship/output_weights",
        inputs=1,
        transposed=("huggingface", "google"),
    ),
    Name(
        "next_sentence_head/dense/bias",
        "cls.seq_relationship.bias",
        "cls/seq_relationship/output_bias",
    ),
)


class TaskClass(NamedTuple):
    """A transformers class for fine-tuned models: an encoder and a dense layer."""

    architecture: str
    layer: str
    """Name of the dense layer."""
    representation: str
    """The layer's input, as in `task.representation`. If it is `pooled`, the class has a pooler."""


_SEQUENCE = TaskClass("BertForSequenceClassification", "classifier", "pooled")
TASK_CLASSES = {
    "classification": _SEQUENCE,
    "regression": _SEQUENCE,
    "tagging": TaskClass("BertForTokenClassification", "classifier", "last"),
    "question_answering": TaskClass("BertForQuestionAnswering", "qa_outputs", "last"),
    "multiple_choice": TaskClass("BertForMultipleChoice", "classifier", "pooled"),
}
"""The class for each family of tasks."""


def task_names(task: TaskClass) -> tuple[Name, ...]:
    """Returns the names in a fine-tuned model. The output layer's Google name is a placeholder."""
    encoder = [name for name in NAMES if name.path.startswith("bert/")]
    if task.representation != "pooled":
        encoder = [name for name in encoder if "/pooler/" not in name.path]
    return (*encoder, *_dense("output", task.layer, ""))


TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "decoder.weight": "model.embeddings.tok_embeddings.weight",  # ModernBERT
}
"""Second names under which Hugging Face may store a tensor. Both copies must be equal."""

# Tensors that bert_jax ignores on purpose: a pattern of their names, and the reason.
_EXPLAINED: dict[Convention, tuple[tuple[str, str], ...]] = {
    "huggingface": (
        (r"bert\.embeddings\.(position_ids|token_type_ids)", "a constant buffer"),
        (r"(classifier|qa_outputs)\.(weight|bias)", "the head of a fine-tuned task"),
    ),
    "google": (
        (r".+/(adam|lamb)_[mv]", "a moment of the optimizer"),
        (r"global_step", "the step of the optimizer"),
        (r"(cls/squad/)?output_(weights|bias)", "the head of a fine-tuned task"),
    ),
}


def explain(name: str, convention: Convention) -> str | None:
    """Returns why a tensor is ignored on purpose, or None if there is no known reason."""
    return next(
        (why for pattern, why in _EXPLAINED[convention] if re.fullmatch(pattern, name)), None
    )


def canonical(name: str, convention: Convention) -> str:
    """Returns a tensor's name as `NAMES` spells it.

    The function removes prefixes that torch's wrappers add, adds Hugging Face's prefix `bert.`, and
    renames LayerNorm's old gamma and beta.
    """
    if convention == "google":
        return name
    name = re.sub(r"^((module|model|_orig_mod)\.)+", "", name)
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    return re.sub(
        r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: {"gamma": "weight", "beta": "bias"}[m[0]], name
    )
