"""The model card of an exported model: README.md in the form of the Hugging Face Hub."""

from typing import Any

from bert_jax.config import config_hash
from bert_jax.files import read_json_if_whole
from bert_jax.models.bert import num_parameters
from bert_jax.models.flops import update_flops
from bert_jax.runs.description import chosen_experiment, trained_length
from bert_jax.runs.run import Run
from bert_jax.training.experiment import Experiment, phases

BASELINES = (
    ("masked words: loss (nats)", "mlm_loss", "unigram_loss", "word frequencies"),
    ("masked words: accuracy", "mlm_accuracy", "majority_token_accuracy", "the commonest piece"),
    ("pairs: accuracy", "nsp_accuracy", "nsp_majority_accuracy", "the commonest label"),
)
"""Quantities of `result.json`: name, metric, its baseline, and what the baseline predicts."""

PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
}
"""The hub's names of the uses of fine-tuned models. Other families have the hub's names."""


def model_card(run: Run, name: str) -> str:
    """Returns the card of a model. What is not known, such as data of foreign weights, is said.

    Args:
      run: a model with the passport, `result.json` and `environment.json` of its training.
      name: the title.
    """
    config, kind = run.model.config, run.tokenizer.to_json()["kind"]
    head = getattr(run.model, "head", None)
    preparation = (run.passport or {}).get("preparation", {})
    code = run.config.data.language if run.config else preparation.get("language")
    language = f"language: {code}\n" if code else ""
    source = f"`{run.path.name}`" + (f", step {run.step}" if run.step else "")
    if run.fine_tuning:
        source = f"`{run.path.parent.name}/{run.path.name}`"
    task = f" fine-tuned for {head.family}" if head else ""
    plural = "s" if config.num_layers > 1 else ""
    count = num_parameters(run.params, config)
    family = head.family if head else "fill-mask"
    pipeline = PIPELINES.get(family, family.replace("_", "-"))
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags: [bert, bert_jax]\n"
        f"{language}---\n\n# {name}\n\n"
        f"A BERT{task} of {config.num_layers} layer{plural} of width {config.hidden_size} with "
        f"{count:,} parameters, from {source}. `AutoTokenizer` and "
        f"`AutoModel` of transformers open this directory. The tokenizer is {kind} with "
        f"{run.tokenizer.vocab_size:,} pieces. {_normalization(run)}\n\n"
        f"## Data\n\n{_data(run.passport)}\n\n## Training\n\n{_training(run)}\n\n"
        f"## Evaluation\n\n{_evaluation(run)}\n\n## Limits\n\n{_limits(run)}\n"
    )


def _normalization(run: Run) -> str:
    """Returns, in words, what the tokenizer does with capitals and accents."""
    description = run.tokenizer.to_json()
    lower_case = description["lower_case"]
    words = "The text is lower-cased" if lower_case else "Capitals are kept"
    if description["kind"] == "wordpiece":
        stripped = description.get("strip_accents", lower_case)
        words += ", and accents are removed" if stripped else ", and accents are kept"
    return f"{words}."


def _table(rows: list[tuple[Any, ...]]) -> str:
    lines = [f"| {' | '.join(str(cell).replace('|', ' ') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _data(passport: dict[str, Any] | None) -> str:
    if not passport:
        return "The training data are not known."
    splits = passport["splits"]
    sources = [
        (f"`{s['spec']}`", s["weight"], s.get("licence") or "not stated")
        for s in passport["corpus"]["sources"]
    ]
    counts = [
        (name, f"{splits[name]['documents']:,}", f"{splits[name]['tokens']:,}")
        for name in ("train", "eval")
    ]
    return "\n\n".join(
        [
            _table([("source", "weight", "licence"), *sources]),
            _table([("split", "documents", "tokens"), *counts]),
            f"SHA-256 of the corpus: `{passport['corpus_fingerprint']}`.",
        ]
    )


def _training(run: Run) -> str:
    if tuning := run.fine_tuning:
        task, training = tuning.task, tuning.training
        rows = [
            ("task", f"{task.family}, from the vector `{task.representation}`"),
            ("training examples", f"`{task.train}`"),
            ("epochs, rows of an update", f"{training.epochs}, {training.batch_size}"),
            ("learning rate", tuning.optimizer.learning_rate),
            ("config", config_hash(tuning)),
        ]
        return "The data above are those of the pretraining. This is the fine-tuning:\n\n" + _table(
            [("", ""), *rows]
        )
    if run.config is None or not run.step:
        said = "The weights were converted from another implementation, or copied from a run."
        return f"{said} See `conversion.txt`."
    environment = read_json_if_whole(run.path / "environment.json")
    tokens, flops = _costs(run.config, run.passport, run.step)
    result = read_json_if_whole(run.path / "result.json")
    devices = len(environment.get("devices", ()))
    rows = [
        ("experiment or preset", f"`{chosen_experiment(run)}`, config {config_hash(run.config)}"),
        ("updates", f"{run.step:,} of {run.config.training.steps:,}"),
        ("tokens seen", f"about {tokens:.3g}"),
        ("FLOPs of matrix products", f"about {flops:.3g}"),
        ("hardware", f"{devices} x {environment.get('device_kind', 'not known')}"),
        ("seconds", result.get("seconds", "not known")),
        ("commit of bert_jax", environment.get("commit", "not known")),
    ]
    return _table([("", ""), *rows])


def _costs(
    experiment: Experiment, passport: dict[str, Any] | None, step: int
) -> tuple[float, float]:
    """Returns tokens and FLOPs of the updates up to a step. Rows are as full as the first data."""
    train = passport["splits"]["train"] if passport else {}
    length = experiment.data.sequence_length
    full = train["positions"] / train["examples"] / length if train else 1.0
    tokens = flops = 0.0
    for phase in phases(experiment):
        updates = max(0, min(step, phase.last_step) - phase.first_step)
        data = phase.experiment.data
        row = full * data.sequence_length
        tokens += updates * data.batch_size * row
        masked = round(data.batch_size * row * data.masking.rate)
        lengths = [round(row / data.pairs_per_row)] * (data.batch_size * data.pairs_per_row)
        cost = update_flops(phase.experiment.model, pair_lengths=lengths, predictions=masked)
        flops += updates * cost
    return tokens, flops


def _evaluation(run: Run) -> str:
    result = read_json_if_whole(run.path / "result.json")
    if run.fine_tuning:
        baselines = read_json_if_whole(run.path.parent / "result.json").get("baselines", {})
        rows = [
            (f"{split} {metric}", f"{value:.4f}", _best(baselines.get(split, {}), metric))
            for split in ("dev", "test")
            for metric, value in result.get(split, {}).items()
        ]
        said = "On the examples of the task. Dev has chosen the checkpoint:\n\n"
        return said + _table([("metric", "model", "baseline"), *rows])
    rows = [
        (name, f"{result[metric]:.4f}", f"{result[baseline]:.4f} ({what})")
        for name, metric, baseline, what in BASELINES
        if metric in result and baseline in result
    ]
    if not rows:
        return "No evaluation on held-out text is known."
    said = f"On the held-out documents, at step {result['steps']:,}:\n\n"
    return said + _table([("quantity", "model", "baseline"), *rows])


def _best(baselines: dict[str, dict[str, float]], metric: str) -> str:
    """Returns the largest value that a baseline has of a metric, and the baseline's name."""
    found = [(of[metric], name.replace("_", " ")) for name, of in baselines.items() if metric in of]
    return "{:.4f} ({})".format(*max(found)) if found else "not known"


def _limits(run: Run) -> str:
    limits = [
        f"A text has at most {run.model.config.max_positions} tokens.",
        "Nobody has measured this model on tasks other than those above, nor its social biases.",
    ]
    if run.config:
        trained = trained_length(run)
        if trained and trained < run.model.config.max_positions:
            limits.append(f"Positions after {trained} tokens are untrained.")
        limits.append("The held-out documents come from the corpus of the training.")
        if not run.config.objective.next_sentence:
            limits.append("The pooler and the next-sentence head are untrained.")
    limits += run.loading.missing if run.loading else []
    return "\n".join(f"- {line}" for line in limits)
