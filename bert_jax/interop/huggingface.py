"""Reads and writes directories of Hugging Face's BERT and ModernBERT: config, weights, tokenizer.

Reference: transformers 5.23.0.
"""

from pathlib import Path
from typing import Any

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError
from bert_jax.files import read_json, write_json
from bert_jax.interop import modernbert, source
from bert_jax.interop.names import NAMES, TASK_CLASSES, Name, task_names
from bert_jax.interop.tensor_files import WEIGHTS, read_weights, weights_file, write_safetensors
from bert_jax.interop.tensors import Parameters, from_parameters
from bert_jax.interop.tokenizer_files import read_tokenizer, write_tokenizer
from bert_jax.models.config import BertConfig, ModernConfig, TaskHeadConfig


def read_huggingface(directory: Path, *, lower_case: bool | None = None) -> source.Source:
    """Reads a directory that `save_pretrained` of a current or an older release wrote.

    `lower_case` replaces what the files say about the tokenizer, if it is not None.

    Raises:
      CheckpointError, DataError: the model is not a BERT, or a file is damaged or missing.
    """
    file = weights_file(directory)
    if file is None:
        raise CheckpointError(f"{directory} has no weights; accepted: {' or '.join(WEIGHTS)}")
    config_file = directory / "config.json"
    is_modern = read_json(config_file).get("model_type") == modernbert.MODEL_TYPE
    config = (modernbert if is_modern else source).read_config(config_file)
    tokenizer, casing = read_tokenizer(directory, lower_case=lower_case)
    source.check_vocabulary(tokenizer, config, directory)
    tensors = read_weights(file)
    sizes = modernbert.SIZES if is_modern else source.FIELDS
    source.check_sizes(config, tensors, config_file, sizes)
    if is_modern:
        tensors = modernbert.split(tensors, hidden_size=config.hidden_size)
    names = modernbert.NAMES if is_modern else NAMES
    return source.Source(config, tokenizer, tensors, "huggingface", casing, names)


def write_huggingface(
    directory: Path,
    parameters: Parameters,
    *,
    config: BertConfig,
    tokenizer: Tokenizer,
    head: TaskHeadConfig | None = None,
) -> None:
    """Writes into a directory, which `AutoModelForPreTraining` and `AutoTokenizer` can then load.

    With a head, the transformers class of its task can load the directory, for instance
    `BertForSequenceClassification`. `AutoModelForMaskedLM` can load a ModernBERT.

    Raises:
      CheckpointError: no transformers class has this tokenizer or this head.
    """
    if head and (obstacle := export_obstacle(config, head.family, head.representation)):
        raise CheckpointError(
            f"a model fine-tuned on {head.representation!r} cannot be exported, {obstacle}; "
            "accepted: another fine-tuning, or this model in predict --task=task"
        )
    if type(config) is ModernConfig:
        names, of_task, of_model = modernbert.NAMES, {}, modernbert.config_json(config, tokenizer)
    elif type(config) is BertConfig:
        pretraining = {"architectures": ["BertForPreTraining"], "tie_word_embeddings": True}
        names, of_task = _of_task(head) if head else (NAMES, pretraining)
        of_model = source.config_json(config)
    else:
        raise CheckpointError(
            f"the model is {type(config).__name__}, which transformers does not have; accepted: "
            "BertConfig or ModernConfig"
        )
    tensors = from_parameters(parameters, vocab_size=config.vocab_size, names=names)
    write_safetensors(directory, modernbert.fuse(tensors) if names is modernbert.NAMES else tensors)
    common = {"dtype": "float32", "pad_token_id": tokenizer.pad_id}
    write_json(directory / "config.json", of_task | common | of_model)
    segments = type(config) is BertConfig  # releases before 5 refuse them for ModernBERT
    write_tokenizer(directory, tokenizer, max_positions=config.max_positions, segments=segments)


def export_obstacle(config: BertConfig, family: str, representation: str) -> str | None:
    """Returns why no class of transformers has a fine-tuned model, or None if a class has it."""
    if type(config) is not BertConfig:
        return f"because transformers does not have this output layer for {type(config).__name__}"
    task = TASK_CLASSES[family]
    if representation == task.representation:
        return None
    return f"because {task.architecture} needs task.representation={task.representation}"


def _of_task(head: TaskHeadConfig) -> tuple[tuple[Name, ...], dict[str, Any]]:
    """Returns the tensor names of a fine-tuned model, and the task's fields of its config.json."""
    task = TASK_CLASSES[head.family]
    labels = head.labels or tuple(f"LABEL_{i}" for i in range(head.outputs))
    more: dict[str, Any] = {"architectures": [task.architecture]}
    if head.family in ("classification", "regression", "tagging"):
        more["id2label"] = {str(i): label for i, label in enumerate(labels)}
        more["label2id"] = {label: i for i, label in enumerate(labels)}
    if head.family in ("classification", "regression"):
        single = "single_label_classification"
        more["problem_type"] = "regression" if head.family == "regression" else single
    return task_names(task), more
