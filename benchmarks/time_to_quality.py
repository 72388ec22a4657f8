"""Measures how long bert_jax and torch train until the held-out masked loss is low enough.

  python -m bert_jax.prepare --experiment=experiments/quickstart.py
  python benchmarks/time_to_quality.py --experiment=experiments/quickstart.py

The script needs torch and transformers, as in .venv-reference. The goal is a masked loss of --nats
below the loss of the unigram baseline. bert_jax and Hugging Face's BERT in its strongest form
(bert_jax/benchmarking/peer.py) start from the same weights. They train on the same masked examples,
with the same optimizer and learning rates, on one device.

Each side has a process of its own. Its clock includes every update and the compilation, for which
there is no cache. The clock stops during evaluations, which come every --every updates. It does not
include imports, nor the making of the batches and the initial weights.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bert_jax import command, config, cpu, environment
from bert_jax.benchmarking import peer
from bert_jax.errors import BertJaxError, ConfigError
from bert_jax.files import write_json

FLAGS = flags.FLAGS
FORMAT_VERSION = 1
SPLITS = ("train", "held_out")


class Inputs:
    """Holds what both sides read: batches, learning rates, the goal and the peer's request."""

    def __init__(self, directory: Path):
        self.batches = {
            split: {
                file.stem.partition(".")[2]: np.load(file, mmap_mode="r")
                for file in directory.glob(f"{split}.*.npy")
            }
            for split in SPLITS
        }
        self.request = json.loads((directory / "request.json").read_text())
        self.config = json.loads((directory / "config.json").read_text())
        goal = json.loads((directory / "goal.json").read_text())
        self.goal: float = goal["goal"]
        self.rates: list[float] = goal["rates"]
        self.every: int = goal["every"]
        self.torch_compile: bool = goal["torch_compile"]

    def batch(self, split: str, number: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch by the names of the fields of `data.batch.Batch`."""
        return {name: np.array(array[number]) for name, array in self.batches[split].items()}

    def held_out(self) -> list[dict[str, np.ndarray]]:
        """Returns all held-out batches."""
        count = len(next(iter(self.batches["held_out"].values())))
        return [self.batch("held_out", number) for number in range(count)]


# ---- Inputs ----------------------------------------------------------------------------------


def write_inputs(directory: Path) -> None:
    """Writes the inputs for the experiment in `config.json` and the nats in `goal.json`.

    Raises:
      DataError: the data of the experiment are not prepared.
    """
    import jax.numpy as jnp
    import safetensors.numpy

    from bert_jax.benchmarking.comparison import request_of
    from bert_jax.data.batch import Batch
    from bert_jax.interop.tensors import from_parameters
    from bert_jax.training import phases as data
    from bert_jax.training.evaluation import baselines
    from bert_jax.training.experiment import phases
    from bert_jax.training.initial import flatten_params
    from bert_jax.training.optim import learning_rate_schedule

    experiment = read_experiment(directory)
    (phase,) = phases(experiment)
    splits = data.training_batches(phase, 0), data.held_out_batches(phase)
    for split, batches in zip(SPLITS, splits, strict=True):
        for field, column in zip(Batch._fields, zip(*batches, strict=True), strict=True):
            np.save(directory / f"{split}.{field}.npy", np.stack(column))
    _, state, _ = assembled(experiment)
    parameters = {path: np.asarray(leaf) for path, leaf in flatten_params(state.params).items()}
    tensors = from_parameters(parameters, vocab_size=experiment.model.vocab_size)
    weights = directory / "weights.safetensors"
    safetensors.numpy.save_file(tensors, weights)
    request_of(experiment, directory, weights=weights)
    steps = experiment.training.steps
    rates = learning_rate_schedule(experiment.optimizer, steps=steps)(jnp.arange(steps))
    unigram = baselines(data.held_out_batches(phase), experiment.data.directory)["unigram_loss"]
    goal = json.loads((directory / "goal.json").read_text())
    goal |= {"goal": unigram - goal["nats"], "unigram": unigram}
    write_json(directory / "goal.json", goal | {"rates": np.asarray(rates).tolist()})


def read_experiment(directory: Path) -> Any:
    from bert_jax.training.experiment import Experiment

    return config.from_json(Experiment, json.loads((directory / "config.json").read_text()))


def assembled(experiment: Any) -> tuple[Any, Any, Any]:
    """Returns the functions of the experiment's phase, the first state, and the mesh."""
    from bert_jax.sharding import make_mesh
    from bert_jax.training.build import assemble
    from bert_jax.training.experiment import phases
    from bert_jax.training.state import make_state

    mesh = make_mesh(experiment.mesh)
    assembly = assemble(phases(experiment)[0], mesh)
    return assembly, make_state(assembly.initialize, assembly.sharding), mesh


# ---- The two sides -----------------------------------------------------------------------------


def train_until(
    inputs: Inputs,
    *,
    compile_: Callable[[], Any],
    update: Callable[[int], Any],
    wait: Callable[[Any], Any],
    evaluate: Callable[[], float],
) -> dict[str, Any]:
    """Trains until `evaluate` returns at most the goal, or the updates are over."""
    start = time.perf_counter()
    compile_()
    compiled = clock = time.perf_counter() - start
    rows, reached = [], False
    for first in range(0, len(inputs.rates), inputs.every):
        start = time.perf_counter()
        last = min(first + inputs.every, len(inputs.rates))
        for number in range(first, last):
            result = update(number)
        wait(result)
        clock += time.perf_counter() - start
        loss = evaluate()
        rows.append({"updates": last, "seconds": clock, "held_out_mlm_loss": loss})
        if reached := loss <= inputs.goal:
            break
    return {"reached": reached, "compile_seconds": compiled, **rows[-1], "evaluations": rows}


def train_ours(directory: Path) -> dict[str, Any]:
    """Trains with bert_jax."""
    import jax

    from bert_jax.data.batch import Batch
    from bert_jax.training.build import compile_update
    from bert_jax.training.evaluation import evaluate

    inputs = Inputs(directory)
    assembly, state, mesh = assembled(read_experiment(directory))
    held_out = [assembly.place(Batch(**batch)) for batch in inputs.held_out()]

    def compile_() -> None:
        nonlocal assembly
        assembly = compile_update(assembly, state, Batch(**inputs.batch("train", 0)))

    def update(number: int) -> Any:
        nonlocal state
        batch = assembly.place(Batch(**inputs.batch("train", number)))
        state, metrics = assembly.update(state, batch)
        return metrics

    with jax.set_mesh(mesh):
        return train_until(
            inputs,
            compile_=compile_,
            update=update,
            wait=jax.block_until_ready,
            evaluate=lambda: evaluate(assembly.score, state.params, held_out)["mlm_loss"],
        )


def train_peer(directory: Path) -> dict[str, Any]:
    """Trains with Hugging Face's BERT in torch."""
    inputs = Inputs(directory)
    model = peer.Peer(inputs.request, "strongest")
    torch = model.torch
    held_out = [model.tensors(batch) for batch in inputs.held_out()]

    def compile_() -> None:
        if inputs.torch_compile:
            model.compute = torch.compile(model.compute)
            model.loss(model.tensors(inputs.batch("train", 0))).backward()
            model.optimizer.zero_grad(set_to_none=True)

    def update(number: int) -> Any:
        return model.update(model.tensors(inputs.batch("train", number)), inputs.rates[number])

    def evaluate() -> float:
        model.model.eval()
        total = weight = 0.0
        with torch.no_grad():
            for batch in held_out:
                hidden = model.model.bert(
                    input_ids=batch["token_ids"],
                    token_type_ids=batch["segment_ids"],
                    attention_mask=batch["attention_mask"],
                ).last_hidden_state
                weights = batch["mask_weights"].flatten()
                total += (model.masked_losses(hidden, batch) * weights).sum().item()
                weight += weights.sum().item()
        model.model.train()
        return total / weight

    return train_until(inputs, compile_=compile_, update=update, wait=model.wait, evaluate=evaluate)


# ---- The command ---------------------------------------------------------------------------------

STAGES: Mapping[str, Callable[[Path], Any]] = {
    "inputs": write_inputs,
    "bert_jax": train_ours,
    "huggingface": train_peer,
}


def run_stage(stage: str, directory: Path) -> dict[str, Any]:
    """Runs a stage on a directory of inputs, in a new process. Returns what it prints.

    Raises:
      BertJaxError: the stage fails.
    """
    from bert_jax.benchmarking.comparison import ALLOCATOR

    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(directory / "cache")}
    allocator = ALLOCATOR if stage == "huggingface" else {}
    result = subprocess.run(
        [sys.executable, __file__, f"--stage={stage}", str(directory)],
        env=kept | cache | allocator,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BertJaxError(f"{stage} ended with status {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def compare(experiment: Any) -> dict[str, Any]:
    """Runs all stages. Returns the result of each side, and the seconds of torch over ours."""
    from bert_jax.benchmarking import comparison
    from bert_jax.training.experiment import phases
    from bert_jax.training.phases import load_data

    comparison.check_installed()
    if experiment.phases:
        raise ConfigError(f"phases has {len(experiment.phases)} phases; accepted: none")
    experiment = comparison.comparable(experiment)
    load_data(phases(experiment))
    sides = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_json(directory / "config.json", config.to_json(experiment))
        settings = {name: FLAGS[name].value for name in ("nats", "every", "torch_compile")}
        write_json(directory / "goal.json", settings)
        run_stage("inputs", directory)
        for side in ("bert_jax", "huggingface"):
            sides[side] = run_stage(side, directory)
            print(summary(side, sides[side]), file=sys.stderr)
        goal = json.loads((directory / "goal.json").read_text())
    return {
        "format_version": FORMAT_VERSION,
        "config": config.to_json(experiment),
        "commit": environment.describe()["commit"],
        "unigram_loss": goal["unigram"],
        "goal": goal["goal"],
        "sides": sides,
        "ratio": sides["huggingface"]["seconds"] / sides["bert_jax"]["seconds"],
    }


def summary(side: str, result: Mapping[str, Any]) -> str:
    """Returns the result of a side as a line of text."""
    loss = f"{result['held_out_mlm_loss']:.3f}" + " (not reached)" * (not result["reached"])
    return (
        f"{side:12}{result['seconds']:8.1f} s, {result['compile_seconds']:.1f} of it compilation, "
        f"{result['updates']} updates, held-out masked loss {loss}"
    )


def main(*arguments: str) -> None:
    """Runs the command, or a stage of it."""
    if FLAGS.stage:
        if FLAGS.stage != "huggingface":
            environment.configure_jax()
            cpu.keep_freed_memory()
        (directory,) = arguments
        print(json.dumps(STAGES[FLAGS.stage](Path(directory))))
        return
    if arguments:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; see --help")
    result = compare(command.experiment_from_flags())
    print(f"goal {result['goal']:.3f} = unigram {result['unigram_loss']:.3f} - {FLAGS.nats}")
    for side, found in result["sides"].items():
        print(summary(side, found))
    print(f"seconds of torch / seconds of bert_jax: {result['ratio']:.2f}")
    if FLAGS.output:
        write_json(Path(FLAGS.output), result)


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_float("nats", 1.0, "How far below the unigram loss the goal is.")
    flags.DEFINE_integer("every", 50, "Updates between evaluations.", lower_bound=1)
    flags.DEFINE_bool("torch_compile", False, "Uses torch.compile, which pays for long runs only.")
    flags.DEFINE_string("output", None, "JSON file to write.")
    flags.DEFINE_enum("stage", None, list(STAGES), "For the processes of the command itself.")
    command.run(main, operands=True)
