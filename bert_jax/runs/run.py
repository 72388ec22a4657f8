"""A trained model, and what can be asked of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from bert_jax.config.paths import open_path, typed_failures
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError, ConfigError, DataError, require
from bert_jax.faults.run_files import RunResult, whole_rows
from bert_jax.files import read_json_if_whole
from bert_jax.interop.tensors import LoadingReport
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import Pooling
from bert_jax.models.task import BertForTask
from bert_jax.runs import description, encoding, fine_tuned, inference, likelihood
from bert_jax.runs.encoding import Attention, Encoded, Text, Token
from bert_jax.runs.generation import generate
from bert_jax.tasks import prediction
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.training.experiment import Experiment

if TYPE_CHECKING:
    from bert_jax.runs.replay import SeenBatch


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with its tokenizer, its experiment and the passport of its data."""

    path: Path
    step: int
    config: Experiment | None
    """Experiment of the run; None for weights of Hugging Face or Google (use `model.config`)."""
    model: BertForPretraining | BertForTask
    """A fine-tuned model has no pretraining heads. `model.head` describes its output layer."""
    params: Any
    """Float32 arrays: `model.apply({"params": params}, batch)` runs the model. A fine-tuned
    model takes `token_ids, segment_ids, pack_ids` in place of the batch."""
    tokenizer: Tokenizer
    passport: dict[str, Any] | None = None
    """Description of the training data (`passport.json`); None if the data are not known."""
    loading: LoadingReport | None = None
    """How each tensor of Hugging Face or Google was used; None for a run of bert_jax."""
    fine_tuning: FineTuningConfig | None = None
    """Config of the fine-tuning of the model, if there was one."""
    threshold: float | None = None
    """Threshold for no answer, which the fine-tuning chose on dev."""

    def __repr__(self) -> str:
        return description.one_line(self)

    def _repr_html_(self) -> str:
        return description.html_table(self)

    def fill_mask(self, text: str | Sequence[str], top_k: int = 5) -> list[Any]:
        """Returns the `top_k` most probable `Filling`s for each [MASK] of a text, or of each text.

        Raises:
          DataError: the text has no [MASK] or is longer than the model's positions.
          ConfigError: `top_k` is below 1.
          CheckpointError: the weights lack the masked-token head.
        """
        self.check_trained("masked_token_head")
        model, texts = self.text_model, inference.as_texts(text)
        pairs = inference.encode_each(partial(inference.encode_masked, model), zip(texts))
        answers = inference.fill_mask(model, pairs, top_k=top_k)
        return answers[0] if isinstance(text, str) else answers

    def embed(
        self,
        texts: str | Sequence[str],
        pooling: Pooling = "mean",
        *,
        truncate: bool = False,
        normalize: bool = False,
    ) -> Float[np.ndarray, "..."]:
        """Returns a float32 vector [embed] of a text, or vectors [texts, embed] of a list.

        Other texts change a vector only by rounding. `normalize` gives it the length 1.
        A text has up to `model.max_positions` tokens, with [CLS] and [SEP]; `truncate` cuts off the
        last tokens of a longer text. Positions beyond the row length of the training are untrained.
        `bert_jax.models.pooling` describes each `pooling`.

        Raises:
          DataError: a text is too long. The message gives the index of the text, from 0.
          ConfigError: the pooling does not exist.
          CheckpointError: the pooling is `pooled` and the pooler was not trained.
        """
        if pooling == "pooled":
            self.check_trained("bert/pooler")
        encode = partial(inference.encode_text, self.text_model, truncate=truncate)
        pairs = inference.encode_each(encode, zip(inference.as_texts(texts)))
        vectors = inference.embed(self.text_model, pairs, pooling=pooling)
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors[0] if isinstance(texts, str) else vectors

    def tokenize(self, text: Text, *, truncate: bool = False) -> list[Token]:
        """Returns the tokens of a text or a pair (A, B) with their places in it; see `encode`."""
        return encoding.tokenize(self.text_model, text, truncate=truncate)

    def encode(
        self,
        texts: Text | Iterable[Text],
        *,
        hidden_states: bool = False,
        attentions: bool = False,
        truncate: bool = False,
    ) -> Any:
        """Returns an `Encoded` for a text or a pair (A, B), or a list of them for a list.

        It has the tokens and the encoder's outputs. `hidden_states` and `attentions` add the
        outputs and the attention probabilities of all layers; `truncate` cuts long texts. Other
        texts change a value only by rounding. Only `fill_mask` takes [MASK] in a text as a mask.

        Raises:
          DataError: a text is too long (the message gives its index), or `texts` is something else.
        """
        options = {"hidden_states": hidden_states, "attentions": attentions, "truncate": truncate}
        encoded = encoding.encode(self.text_model, texts, **options)
        return encoded[0] if isinstance(texts, str | tuple) else encoded

    def attention(self, text: Text) -> Attention:
        """Returns the attention of all heads for a text or a pair; its `plot` draws one."""
        encoded = self.encode(text, attentions=True)
        accepted = "a text, or a pair of texts as a tuple"
        require(isinstance(encoded, Encoded), "the text", text, accepted, error=DataError)
        return Attention(encoded.tokens, encoded.attentions)

    def similarity(
        self, a: Any, b: Any, pooling: Pooling = "mean", *, truncate: bool = False
    ) -> Any:
        """Returns the cosine similarity of two texts, by `embed`.

        Two lists give a float32 matrix [texts of a, texts of b]. A text with a list gives a vector.
        """
        of_a, of_b = inference.as_texts(a, name="a"), inference.as_texts(b, name="b")
        vectors = self.embed([*of_a, *of_b], pooling, truncate=truncate, normalize=True)
        cosines = vectors[: len(of_a)] @ vectors[len(of_a) :].T
        if isinstance(a, str):
            return float(cosines[0, 0]) if isinstance(b, str) else cosines[0]
        return cosines[:, 0] if isinstance(b, str) else cosines

    def pseudo_log_likelihood(self, texts: Text | Iterable[Text], *, truncate: bool = False) -> Any:
        """Returns the sum over the tokens of log p(token | other tokens), in nats.

        A text or a pair (A, B) gets a float, a list of them a float64 array [texts]. A text costs a
        row for each of its tokens.

        Raises:
          DataError: a text is too long. The message gives the index of the text, from 0.
          CheckpointError: the weights lack the masked-token head.
        """
        self.check_trained("masked_token_head")
        of_texts = inference.as_list(texts, pairs=True)
        pairs = encoding.encode_texts(self.text_model, of_texts, truncate=truncate)
        sums = likelihood.pseudo_log_likelihoods(self.text_model, pairs)
        return float(sums[0]) if isinstance(texts, str | tuple) else sums

    def bits_per_character(self, texts: Text | Iterable[Text]) -> float:
        """Returns -`pseudo_log_likelihood` in bits, per character of all texts together.

        It compares models with different vocabularies; lower is better. It is no size of compressed
        text, because each token is predicted from both sides. Tokens of [UNK] hide characters, so a
        vocabulary must cover the texts.

        Raises:
          DataError, CheckpointError: see `pseudo_log_likelihood`; or there is no character.
        """
        texts = inference.as_list(texts, pairs=True)
        nats = -self.pseudo_log_likelihood(texts).sum()
        # A character is a Unicode code point. A text joined with "" is the text.
        count = sum(len("".join(text)) for text in texts)
        require(count > 0, "texts", texts, "at least one character", error=DataError)
        return float(nats / (np.log(2) * count))

    def next_sentence(self, a: Any, b: Any, *, truncate: bool = False) -> Any:
        """Returns the probability that text B follows text A: class 0 of the next-sentence head.

        Two lists of the same length give an array [pairs].

        Class 1 means that B is random; if `data.pairs` is 'sentence_order', that A follows B.
        `truncate` cuts off the last tokens of the longer text, instead of raising an error.

        Raises:
          DataError: a text is empty, or both together are longer than the model's positions.
          CheckpointError: the next-sentence head was not trained.
        """
        self.check_trained("bert/pooler", "next_sentence_head")
        encode = partial(inference.encode_pair, self.text_model, truncate=truncate)
        pairs = inference.encode_each(encode, inference.as_pairs(a, b))
        follows = inference.next_sentence(self.text_model, pairs)
        return float(follows[0]) if isinstance(a, str) else follows

    def generate(
        self,
        prompt: str,
        *,
        length: int = 16,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 100,
        sweeps: int = 8,
    ) -> str:
        """Returns the prompt and `length` word pieces after it; see `bert_jax.runs.generation`.

        Raises:
          DataError: the prompt and the pieces together are longer than the model's positions.
          ConfigError: a number is out of range.
          CheckpointError: the weights lack the masked-token head.
        """
        self.check_trained("masked_token_head")
        require(isinstance(prompt, str), "prompt", prompt, "a text", error=DataError)
        ids = self.tokenizer.encode(prompt)
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "sweeps": sweeps}
        new = generate(self.text_model, ids, length=length, seed=seed, **options)
        return f"{prompt} {self.tokenizer.decode(new)}" if prompt else self.tokenizer.decode(new)

    def predict(self, inputs: Any, *, probabilities: bool = False) -> Any:
        """Returns the prediction of a fine-tuned model for each input, as a dict.

        Args:
          inputs: a list of texts, of tuples such as (text, second text) or (question, passage), or
            of dicts with the fields of the task. A text, tuple or dict alone gets one dict.
          probabilities: whether a label comes with the probabilities of all labels.

        The dict has `label` and `probability`; `value` (regression); `tags`, a list of `text`,
        `start`, `end`, `tag` and `probability`; or `answer`, `start`, `end` and `probability`.
        Lengths are cut as in the fine-tuning.

        Raises:
          CheckpointError: the model was not fine-tuned, or its config is missing.
          DataError: the task needs other inputs. The message gives the index of the input, from 0.
        """
        return prediction.predict_inputs(self.task_model, inputs, probabilities=probabilities)

    @property
    def task_model(self) -> prediction.TaskModel:
        """The fine-tuned model and its task, as the functions of `prediction` take them.

        Raises:
          CheckpointError: the model was not fine-tuned, or its config is missing.
        """
        if not isinstance(self.model, BertForTask):
            raise CheckpointError(fine_tuned.NOT_FINE_TUNED.format(self.path))
        if self.fine_tuning is None:
            raise CheckpointError(fine_tuned.NO_CONFIG.format(self.path))
        task = self.fine_tuning.task
        return prediction.TaskModel(self.model, self.params, self.tokenizer, task, self.threshold)

    @property
    def text_model(self) -> inference.TextModel:
        """The model and its tokenizer, as the functions of `inference` take them."""
        # Hugging Face and Google end a single text with [SEP].
        config = self.config
        separator = config.data.single_text_separator if config else True
        # Only the encoder of a fine-tuned model is used; `check_trained` refuses the heads.
        model = self.model
        if isinstance(model, BertForTask):
            model = BertForPretraining(model.config)
        longest = description.trained_length(self)
        return inference.TextModel(model, self.params, self.tokenizer, separator, longest)

    def check_trained(self, *parts: str) -> None:
        """Raises CheckpointError if a part (such as `bert/pooler`) is missing or not trained."""
        if reason := description.why_untrained(self, parts):
            raise CheckpointError(f"{self.path} {reason}")

    def report(self) -> str:
        """Returns a text that lists the loaded arrays and the tensors that were not used."""
        return description.report(self)

    @typed_failures()
    def batch(self, step: int) -> "SeenBatch":
        """Returns the global batch of update `step` (from 1), with the masked tokens; see `replay`.

        Raises:
          CheckpointError: the weights are not from a run of pretrain.
          ConfigError: the run has no such step.
          DataError: the prepared data of the run are missing, or are other data.
        """
        if self.config is None:
            raise CheckpointError(f"{self.path} has no batches; accepted: a run of pretrain")
        from bert_jax.runs.replay import replay  # imports the data pipeline

        return replay(self.config, self.passport, self.tokenizer, step)

    @typed_failures()
    def plot_curves(self) -> Any:
        """Draws the losses and accuracies by step, and returns matplotlib's axes.

        Dotted lines are baselines that need no model; they are known when the run has ended.
        Raises CheckpointError if the weights are not from a run of pretrain.
        """
        import matplotlib.pyplot as plt

        from bert_jax.runs.curves import draw

        result = read_json_if_whole(self.path / "result.json", RunResult)
        return draw({str(self.path): (self.metrics(), result)}, plt.figure).axes

    @typed_failures()
    def evaluate(self, data: str | Path) -> dict[str, Any]:
        """Returns metrics and baselines on the held-out examples of prepared data.

        `data` is a directory that `prepare` made with the vocabulary of the run. The command
        `bert_jax.evaluate` prints the same; `evaluation.evaluate_run` lists the errors.
        """
        from bert_jax.runs.evaluation import evaluate_run  # imports the data pipeline

        return evaluate_run(self, str(open_path(data, name="the path of the data")))

    @typed_failures()
    def metrics(self) -> list[dict[str, float]]:
        """Returns the rows of `metrics.jsonl`. A line on stderr names lines that are damaged.

        Raises:
          CheckpointError: the file does not exist, because the weights are not from a run, or the
            run has not logged yet.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            accepted = "a run of pretrain that has logged a row"
            raise CheckpointError(f"{self.path} has no metrics.jsonl; accepted: {accepted}")
        return whole_rows(file)

    def metrics_frame(self) -> Any:
        """Returns the rows of `metrics` as a pandas DataFrame, whose index is the step.

        Raises ConfigError if pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError("metrics_frame needs pandas: pip install pandas") from error
        frame = pandas.DataFrame(self.metrics())
        return frame.set_index("step") if len(frame) else frame.rename_axis("step")
