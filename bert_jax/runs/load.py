"""Opens trained models: `load_run(path)` returns a `Run`."""

import os
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tensorstore
from jax.sharding import SingleDeviceSharding

from bert_jax import environment
from bert_jax.config import from_json
from bert_jax.config.bounds import similar
from bert_jax.config.paths import is_remote, open_path, typed_failures
from bert_jax.data.tokenizers.files import tokenizer_from_json
from bert_jax.errors import CheckpointError, located, require
from bert_jax.faults.damage import check_step, choose_step
from bert_jax.interop.huggingface import read_huggingface
from bert_jax.interop.names import TASK_CLASSES, task_names
from bert_jax.interop.source import Source, check_vocabulary
from bert_jax.interop.tensor_files import WEIGHTS, weights_file
from bert_jax.interop.tensorflow import checkpoint_prefix, read_google
from bert_jax.interop.tensors import to_parameters
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import TaskHeadConfig
from bert_jax.models.task import BertForTask, example_ids
from bert_jax.runs import fine_tuned
from bert_jax.runs.run import Run
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.state import make_model
from bert_jax.training import checkpoint
from bert_jax.training.initial import flatten_params
from bert_jax.training.manager import CheckpointManager, reading
from bert_jax.training.state import abstract_params, unboxed_params


@typed_failures()
def load_run(
    path: str | Path,
    step: int | Literal["best"] | None = None,
    *,
    allow: Collection[str] = (),
    lower_case: bool | None = None,
    verify: bool = True,
    trust_code: bool = False,
) -> Run:
    """Loads a trained model onto the CPU.

    The call sets up XLA as the commands do, or warns once that jax has already started.

    Args:
      path: a run, an output directory of `convert`, a Hugging Face directory, or Google's
        `bert_model.ckpt` with `bert_config.json` and `vocab.txt` beside it. A directory of
        `finetune` opens the seed that is best on dev, which `Run.path` names.
      step: the step of a run's checkpoint (default: the last). `best` is the checkpoint with the
        lowest held-out loss; `Run.step` and `best_step` in `result.json` say which it is.
      allow: names of tensors to ignore (or the first part of the names, such as `cls.chain`), and
        of parts to initialize if they are missing (`bert/pooler`, `masked_token_head`,
        `next_sentence_head`). Accepted only for weights of Hugging Face or Google.
      lower_case: whether the tokenizer lower-cases, in place of what the files of Hugging Face or
        Google say. `Run.report` says how a vocabulary without such a file was taken.
      verify: whether the SHA-256 of each file of a run's checkpoint is compared first.
      trust_code: whether a run may execute the file in its `code/` that defines its model. Such a
        file can do anything, so look at it first. Without it, an error names the file.

    Raises:
      CheckpointError, DataError: the path holds no such model, the checkpoint does not exist, a
        file is damaged or missing, or an array does not match the model.
      TemporaryError: gs:// does not answer.
    """
    environment.configure_jax()
    names = isinstance(allow, Collection) and not isinstance(allow, str)
    require(names, "allow", allow, "a list of names", error=CheckpointError)
    whole = isinstance(path, str | os.PathLike) and str(path)
    require(whole, "the path of a run", path, "the path of a directory", error=CheckpointError)
    path = open_path(path, name="the path of a run")
    if not path.exists() and (is_remote(path) or not checkpoint_prefix(path)):
        beside = [] if is_remote(path) else [one.name for one in path.parent.glob("*")]
        near = [str(path.parent / name) for name in similar(path.name, beside, cutoff=0.75)]
        raise CheckpointError(
            f"{path} does not exist{f'; did you mean {near[0]}' if near else ''}; accepted: a run, "
            "or weights of Hugging Face or Google (hf download OWNER/NAME --local-dir=DIR copies "
            "a model of the hub)"
        )
    if path.name in WEIGHTS and path.is_file():
        path = path.parent
    if fine_tuned.is_run(path):
        for name, given in (("allow", allow or None), ("lower_case", lower_case)):
            if given is not None:
                raise CheckpointError(f"{path} is a run of bert_jax; accepted: no {name}")
        is_seed = (path / "checkpoints").is_dir()
        seed = path if is_seed else fine_tuned.best_seed(path)
        return _open_run(seed, step, verify=verify, trust_code=trust_code)
    if is_remote(path):
        raise CheckpointError(f"{path} is not a run: it has no checkpoints/; accepted: a run")
    prefix = checkpoint_prefix(path) or checkpoint_prefix(path / "bert_model.ckpt")
    is_huggingface = weights_file(path) is not None
    if not is_huggingface and not prefix:
        places = (*path.parents[:2], *sorted(path.glob("*")))
        run = next((place for place in places if os.path.isdir(place / "checkpoints")), None)
        near = f"; did you mean {run}" if run else ""
        raise CheckpointError(
            f"{path} is not a run: it has no checkpoints/{near}; accepted too: a directory with "
            f"{' or '.join(WEIGHTS)}, or a bert_model.ckpt with its .index"
        )
    if step:
        raise CheckpointError(f"{path} is not a run and has no checkpoint {step}; accepted: 0")
    if prefix and not is_huggingface:
        return _open_foreign(path, read_google(prefix, lower_case=lower_case), allow)
    return _open_foreign(path, read_huggingface(path, lower_case=lower_case), allow)


def _open_run(
    path: Path, step: int | Literal["best"] | None, *, verify: bool, trust_code: bool
) -> Run:
    with checkpoint.open_checkpoints(path, read_only=True) as manager:
        step = choose_step(path, step)
        if verify:
            check_step(path, step)
        trusted = path if trust_code else None
        stored = checkpoint.restore_description(manager, step=step, trusted=trusted)
        with reading(manager, step):
            tokenizer = tokenizer_from_json(stored.tokenizer)
            check_vocabulary(tokenizer, stored.model, path)
            # The rows of a call have any length, and may be computed on any device.
            encoder = replace(stored.model, attention="einsum")
            model, inputs = BertForPretraining(encoder), ()
            if stored.head:
                head = from_json(TaskHeadConfig, stored.head)
                model, inputs = BertForTask(encoder, head), example_ids()
        abstract = abstract_params(model, SingleDeviceSharding(_cpu()), *inputs)
        params = _read_params(manager, abstract, step=step)
    tuned = fine_tuned.read_fine_tuning(path) if stored.head else (None, None)
    return Run(
        path=path,
        step=step,
        config=stored.experiment,
        model=model,
        params=params,
        tokenizer=tokenizer,
        passport=stored.passport,
        fine_tuning=tuned[0],
        threshold=tuned[1],
    )


def _read_params(manager: CheckpointManager, abstract: Any, *, step: int) -> Any:
    """Returns the parameters of a saved step as arrays on the device of `abstract`, a CPU.

    orbax would hold the stored bytes of all arrays, and a copy of the largest one, beside them.
    """
    checkpoint.check_arrays(manager, {"params": abstract}, step=step)
    base, one = f"{manager.directory}/{step}/state/", {"limit": 1}
    # TensorStore refuses `..` in a path.
    local = {"driver": "file", "path": f"{os.path.realpath(base)}/"}
    files = base if base.startswith("gs://") else local
    context = tensorstore.Context({"file_io_concurrency": one, "data_copy_concurrency": one})
    leaves, arrays = flatten_params(abstract), {}
    with reading(manager, step):
        for name, leaf in sorted(leaves.items(), key=lambda item: -item[1].size):
            path = f"params.{name.replace('/', '.')}/"
            spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": files, "path": path}}
            spec["fill_missing_data_reads"] = False  # a missing part is an error, not zeros
            stored = tensorstore.open(spec, read=True, context=context).result()
            # jax uses the memory of an array that starts at a multiple of 64 bytes without a copy.
            size = leaf.size * leaf.dtype.itemsize
            memory = np.empty(size + 64, np.uint8)
            start = -memory.ctypes.data % 64
            array = memory[start : start + size].view(leaf.dtype).reshape(leaf.shape)
            tensorstore.array(array).write(stored).result()
            arrays[name] = jax.device_put(array, leaf.sharding)
    return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in leaves])


def _open_foreign(path: Path, source: Source, allow: Collection[str]) -> Run:
    """Opens weights of another implementation. The report says how each tensor was used."""
    model, inputs, fine_tuning, threshold = BertForPretraining(source.config), (), None, None
    if (path / fine_tuned.FILE).exists():
        fine_tuning, threshold = fine_tuned.read_fine_tuning(path)
        assert fine_tuning is not None
        family, labels = fine_tuning.task.family, fine_tuning.task.labels
        model = make_model(fine_tuning, source.config, FAMILIES[family], labels)
        task = TASK_CLASSES[family]
        if task.representation != "pooled":  # the class has no pooler, so the export has none
            allow = (*allow, "bert/pooler")
        names = task_names(task._replace(representation="pooled"))
        inputs, source = example_ids(), source._replace(names=names)
    abstract = abstract_params(model, SingleDeviceSharding(_cpu()), *inputs)
    shapes = {name: leaf.shape for name, leaf in flatten_params(abstract).items()}
    initialize = partial(_initialize, model, inputs)
    with located(path):
        arrays, loading = to_parameters(source, shapes, initialize=initialize, allow=allow)
    params = jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in shapes])
    return Run(
        path=path,
        step=0,
        config=None,
        model=model,
        params=jax.device_put(params, _cpu()),
        tokenizer=source.tokenizer,
        loading=loading,
        fine_tuning=fine_tuning,
        threshold=threshold,
    )


def _cpu() -> Any:
    """Returns the device to which runs are loaded."""
    return jax.local_devices(backend="cpu")[0]


def _initialize(model: Any, inputs: Any, paths: Collection[str]) -> dict[str, np.ndarray]:
    """Returns random initial values for the parameters in `paths`, drawn with seed 0."""

    def initialize() -> dict[str, jax.Array]:
        params = flatten_params(unboxed_params(model, 0, *inputs))
        return {path: params[path] for path in paths}

    with jax.default_device(_cpu()):
        return jax.device_get(jax.jit(initialize)())
