"""Fine-tuning from start to end: data, encoder, compiled steps, seeds, result."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress

from bert_jax import environment
from bert_jax.config import config_hash, diff, from_json, normalize, to_json
from bert_jax.config.paths import open_path
from bert_jax.errors import CheckpointError, DivergenceError, require
from bert_jax.faults.memory import check_fits
from bert_jax.faults.run_files import AS_WRITTEN
from bert_jax.files import read_json, write_json
from bert_jax.finetuning import results
from bert_jax.finetuning.seed_run import Setup, run_seed
from bert_jax.interop.huggingface import export_obstacle
from bert_jax.runs.fine_tuned import is_run
from bert_jax.runs.load import load_run
from bert_jax.runs.run import Run
from bert_jax.sharding import make_mesh, row_sharding
from bert_jax.tasks import datasets, state
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.datasets import Dataset
from bert_jax.tasks.families.batches import padded_length
from bert_jax.tasks.families.metrics import check_installed
from bert_jax.training import initial

FOREIGN_FILES = ("config.json", "checkpoints", "metrics.jsonl", "passport.json", "seed-*")
"""Files of a pretraining run, of converted weights or of prepared data, and directories of such
runs. A fine-tuning neither overwrites nor deletes them."""
UNUSED_HEADS = ("masked_token_head", "next_sentence_head")

Metrics = dict[str, float]


def finetune(
    config: FineTuningConfig, source: Path, workdir: Path, *, seeds: int = 1
) -> dict[str, Any]:
    """Fine-tunes with `seeds` seeds, skips finished seeds, and returns `result.json`.

    The first seed is `config.seed`. `source` holds pretrained weights that `load_run` opens.

    Raises:
      ConfigError, DataError, CheckpointError, OutOfMemoryError: an input is wrong, or a batch is
        larger than the memory; raised before any compile.
      DivergenceError: every seed diverged.
    """
    count = jax.process_count()
    require(count == 1, "the number of processes", count, "1 for a fine-tuning")
    check_installed()
    console = environment.plain_console(stderr=True)
    say = partial(console.print, soft_wrap=True)

    # ---- Data, encoder, run directory ---------------------------------------------------------
    dataset = datasets.load_dataset(config.task)
    run = keep_dropout_bits(open_encoder(source, config), workdir)
    dataset = datasets.encode_dataset(dataset, config.task, run.tokenizer)
    baselines = measure_baselines(dataset)
    setup = make_setup(config, dataset, run)
    identity = open_workdir(
        workdir,
        config,
        checkpoint_sha256=initial.fingerprint_params(run.params),
        data_sha256=datasets.fingerprint_splits(dataset.splits),
    )
    for line in describe_flaws(dataset):
        say(line)
    task = config.task
    obstacle = export_obstacle(run.model.config, task.family, task.representation)
    say(
        f"task.representation={task.representation}: "
        + (f"no export to Hugging Face, {obstacle}" if obstacle else "exports to Hugging Face")
    )
    highest = max(metrics[dataset.metric] for metrics in baselines["dev"].values())
    say(
        f"{len(dataset.splits['train'].rows):,} rows of {setup.length} tokens, {setup.steps:,} "
        f"steps per seed; best baseline on dev: {dataset.metric} {highest:.4f}"
    )
    if "test" in dataset.splits and "test" not in baselines:
        hidden = sum(one.gold is None for one in dataset.splits["test"].examples)
        say(f"{hidden:,} examples of {config.task.test} have no label: test is not measured")

    # ---- Seeds --------------------------------------------------------------------------------
    ended = []
    for seed in range(config.seed, config.seed + seeds):
        ended.append(finish_seed(setup, seed, workdir / f"seed-{seed}", console))
        say(f"seed {seed}: {describe_seed(ended[-1], dataset.metric)}")

    # ---- Result -------------------------------------------------------------------------------
    result = {
        "format_version": 1,
        **identity,
        "family": config.task.family,
        **compare_seeds(ended, dataset, baselines, workdir),
    }
    write_json(workdir / "result.json", result)
    environment.plain_console().print(results.result_table(result))
    return result


def describe_flaws(dataset: Dataset) -> Iterator[str]:
    """Yields a line for each split with bad records, and for each with texts that are in train."""
    for split in dataset.splits.values():
        if split.skipped:
            yield f"{split.name}: {len(split.skipped):,} bad records, first: {split.skipped[0]}"
        shared = [] if split.name == "train" else split.shared_with(dataset.splits["train"])
        if shared:
            yield (
                f"{split.name}: {len(shared):,} of {len(split.examples):,} texts are also in "
                f"train, first: {shared[0].place} {list(shared[0].texts)!r:.100}"
            )


def measure_baselines(dataset: Dataset) -> dict[str, dict[str, Metrics]]:
    """Returns the metrics of each baseline on dev, and on test if its labels are known."""
    family, labels, (train, *others) = dataset.family, dataset.labels, dataset.splits.values()
    baselines: dict[str, dict[str, Metrics]] = {}
    for split in (one for one in others if one.labelled):
        baselines[split.name] = {
            name: datasets.compute_metrics(family, family.score(predicted, split.examples, labels))
            for name, predicted in family.baselines(train.examples, split.examples).items()
        }
        known = next(iter(baselines[split.name].values()))
        accepted = f"{', '.join(known)} for the labels of {split.name}"
        require(dataset.metric in known, "task.metric", dataset.metric, accepted)
    return baselines


def finish_seed(setup: Setup, seed: int, directory: Path, console: Console) -> dict[str, Any]:
    """Returns the result of a seed; trains the seed unless its directory holds a result."""
    file = directory / "result.json"
    if not file.exists():
        if directory.exists():  # left by an interruption
            shutil.rmtree(directory)
        directory.mkdir()
        hidden = not console.is_terminal
        with (
            jax.set_mesh(setup.mesh),
            Progress(console=console, transient=True, disable=hidden) as progress,
        ):
            run_seed(setup, seed, directory, progress)
    splits = [name for name, split in setup.dataset.splits.items() if split.labelled]
    return results.read_seed(file, setup.dataset.metric, [s for s in splits if s != "train"])


def compare_seeds(
    ended: list[dict[str, Any]],
    dataset: Dataset,
    baselines: dict[str, dict[str, Metrics]],
    workdir: Path,
) -> dict[str, Any]:
    """Returns the part of result.json about the data, the seeds and their statistics."""
    finished = [one for one in ended if "dev" in one]
    if not finished:
        raise DivergenceError(
            f"{workdir}: loss or parameters of every seed became infinite; in another --workdir a "
            "lower optimizer.learning_rate may help"
        )
    metric, train = dataset.metric, dataset.splits["train"]
    directories = [workdir / f"seed-{one['seed']}" for one in finished]
    summary = {}
    for name in baselines:
        outcomes = [
            results.read_outcomes(directory / f"outcomes_{name}.npy", dataset.family, one[name])
            for directory, one in zip(directories, finished, strict=True)
        ]
        summary[name] = results.summarize(outcomes, dataset.family.metrics, metric)
    return {
        "metric": metric,
        "labels": list(dataset.labels),
        "data": {name: split.describe(train) for name, split in dataset.splits.items()},
        "seeds": ended,
        "failed_seeds": [one["seed"] for one in ended if failed(one, baselines["dev"], metric)],
        "best_seed": max(finished, key=lambda one: one["dev"][metric])["seed"],
        "summary": summary,
        "baselines": baselines,
    }


def failed(result: dict[str, Any], baselines: dict[str, Metrics], metric: str) -> bool:
    """Returns whether a seed diverged, or does not beat every baseline on dev.

    A perfect seed has not failed, even if a baseline is perfect too. A threshold chosen on dev
    makes every seed at least as good as the baseline "no answer". A seed with a threshold is
    therefore compared by its `answerable_f1` without the threshold.
    """
    if "dev" not in result:
        return True
    scores = result["dev"]
    if "answerable_f1" in result.get("dev_without_threshold", {}):
        metric, scores = "answerable_f1", result["dev_without_threshold"]
    return scores[metric] < 1.0 and scores[metric] <= max(one[metric] for one in baselines.values())


def open_encoder(source: Path, config: FineTuningConfig) -> Run:
    """Opens pretrained weights. Unused heads, and an unused pooler, may be missing or untrained."""
    pooled, random = config.task.representation == "pooled", config.training.reinitialize_pooler
    accepted = "false without task.representation=pooled"
    require(pooled or not random, "training.reinitialize_pooler", random, accepted)
    needed = pooled and not (random or config.training.from_scratch)
    allow = UNUSED_HEADS if needed else (*UNUSED_HEADS, "bert/pooler")
    run = load_run(source, allow=() if is_run(source) else allow)
    if needed and run.model.config.pair_head:  # else `make_model` refuses the representation
        try:
            run.check_trained("bert/pooler")
        except CheckpointError as error:
            raise CheckpointError(f"{error}, or training.reinitialize_pooler=true") from error
    return run


def keep_dropout_bits(run: Run, workdir: Path) -> Run:
    """Returns `run` with the `dropout_bits` of the finished seeds in `workdir`, if there are any.

    All seeds of a result then use the same `dropout_bits`, even if its default has changed.
    """
    finished = [file.parent for file in sorted(workdir.glob("seed-*/result.json"))]
    trained = [seed for seed in finished if (seed / "checkpoints").is_dir()]  # did not diverge
    if not trained:
        return run
    bits = load_run(trained[0]).model.config.dropout_bits
    return replace(run, model=run.model.clone(config=replace(run.model.config, dropout_bits=bits)))


def make_setup(config: FineTuningConfig, dataset: Dataset, run: Run) -> Setup:
    """Builds the setup that all seeds share; compiles nothing."""
    training, family, rows = config.training, dataset.family, dataset.splits["train"].rows
    model = state.make_model(config, run.model.config, family, dataset.labels)
    mesh = make_mesh(config.mesh)
    batch_sharding = row_sharding(
        training.batch_size, "training.batch_size", rules=config.sharding, mesh=mesh
    )
    length = padded_length(rows, config.task.max_length)
    largest = max(training.batch_size, training.evaluation_batch_size)
    ids = 3 * 4 * largest * len(rows[0].inputs) * length  # three arrays of int32
    check_fits({"a batch": ids / mesh.size}, config, list(mesh.devices.flat))
    steps = training.epochs * math.ceil(len(rows) / training.batch_size)
    optimizer, schedule = state.make_task_optimizer(config, steps=steps)
    sharding, first_state = state.state_maker(model, optimizer, config, mesh)
    update = partial(
        state.task_step, model=model, family=family, optimizer=optimizer, schedule=schedule
    )

    return Setup(
        config=config,
        dataset=dataset,
        run=run,
        model=model,
        encoder=initial.place(run.params["bert"], sharding.params["bert"]),
        first_state=first_state,
        update=jax.jit(update, out_shardings=(sharding, None), donate_argnums=0),
        mesh=mesh,
        batch_sharding=batch_sharding,
        length=length,
        steps=steps,
    )


def open_workdir(workdir: Path, config: FineTuningConfig, **hashes: str) -> dict[str, Any]:
    """Creates a workdir, or checks that it holds the fine-tuning of `config` and `hashes`.

    Returns the hashes of config, checkpoint and data. It also returns the commit, and a hash of
    the uncommitted changes. The config hash of an existing workdir is the one that it has stored.

    Raises:
      CheckpointError: the workdir holds another fine-tuning, or another kind of run, or a damaged
        `identity.json` or `config.json`.
    """
    workdir = open_path(workdir, name="workdir", local=True)
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is a file; accepted: a directory for the run")
    identity = {"config_hash": config_hash(config)} | hashes
    file, config_file = workdir / "identity.json", workdir / "config.json"
    if file.exists():
        stored = read_json(file, error=CheckpointError, advice=AS_WRITTEN)
        differences = {name: (stored.get(name), hashes[name]) for name in hashes}
        if config_file.exists():
            content = read_json(config_file, error=CheckpointError, advice=AS_WRITTEN)
            before = from_json(FineTuningConfig, content)
            differences |= diff(before, normalize(config))
        for name, (held, given) in differences.items():
            if held != given:
                raise CheckpointError(
                    f"{workdir} holds a fine-tuning with {name} {held!s:.64}, this one has "
                    f"{given!s:.64}; accepted: the same, or another --workdir"
                )
        identity |= stored
    elif foreign := [path.name for name in FOREIGN_FILES for path in sorted(workdir.glob(name))]:
        raise CheckpointError(
            f"{workdir} holds {', '.join(foreign)} of something else than a fine-tuning; "
            "accepted: another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)
    if not config_file.exists():
        write_json(config_file, to_json(config))
    file = workdir / "environment.json"
    description = environment.describe_again(file)
    write_json(file, description)
    return identity | {name: description[name] for name in ("commit", "uncommitted_changes")}


def describe_seed(result: dict[str, Any], metric: str) -> str:
    """Returns one line about the result of a seed."""
    if "dev" not in result:
        return f"diverged at step {result['diverged_at_step']}"
    parts = [
        f"{name} {metric} {result[name][metric]:.4f}" for name in datasets.SPLITS if name in result
    ]
    return ", ".join([*parts, f"best at step {result['best_step']} of {result['steps']}"])
