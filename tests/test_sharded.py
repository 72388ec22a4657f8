"""A run gives the same losses on any mesh and with any number of processes."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import free_port, xla_flags

from bert_jax.config import override, to_json
from bert_jax.sharding import MeshConfig
from bert_jax.training.train import train

SCRIPT = Path(__file__).with_name("recorded_process.py")

MESHES = {
    "8x1x1": {},
    "1x8x1": {},
    "2x2x2": {},
    "1x2x4": {},
    "6x1x1": {"data.batch_size": 12},  # batches of the evaluation have 16 rows, and 2 filler rows
    "1x5x1": {
        **{"data.batch_size": 15, "model.hidden_size": 320, "model.num_layers": 1},
        # At 1e-3, losses of this width go up and down, and rounding changes them by 2e-4.
        "optimizer.learning_rate": 1e-4,
    },
    "1x1x3": {"model.hidden_size": 48, "model.num_heads": 3, "model.vocab_multiple": 384},
}
"""Meshes (data x fsdp x tensor), and the fields that each needs."""

PROGRAMS = {
    "unrolled": {},
    "scanned-remat": {"model.scan_layers": True, "model.remat": "full"},
    "bfloat16": {"model.dtype": "bfloat16"},
}
"""Changes that give another program for the same losses; bfloat16 has losses of its own."""

CASES = [
    *((mesh, "unrolled") for mesh in MESHES),
    *((mesh, program) for mesh in ("1x8x1", "2x2x2") for program in ("scanned-remat", "bfloat16")),
]
LONG = (("8x1x1", "unrolled"), ("1x8x1", "unrolled"), ("1x8x1", "scanned-remat"))


def mesh_of(name: str) -> MeshConfig:
    return MeshConfig(
        **dict(zip(("data", "fsdp", "tensor"), map(int, name.split("x")), strict=True))
    )


@pytest.fixture(scope="module")
def twenty_steps(experiment):
    """An experiment with 20 updates at a constant rate of 1e-3, with dropout, in float32."""
    return override(
        experiment,
        {
            "optimizer.schedule": "constant",
            "optimizer.warmup_steps": 0,
            "training.steps": 20,
            "training.log_every": 1,
            "training.eval_every": 20,
            "training.checkpoint_every": 20,
        },
    )


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return [row["train/loss"] for row in rows] + [rows[-1]["eval/loss"]]


@pytest.fixture(scope="module")
def losses_of_one_device(tmp_path_factory):
    """Returns the losses of an experiment on one device, with unrolled layers."""

    @functools.cache
    def of(experiment):
        workdir = tmp_path_factory.mktemp("one") / "run"
        train(experiment, workdir)
        return losses(workdir)

    return of


# The default suite compares single updates: tests/training/test_sharding.py.
@pytest.mark.parametrize(
    ("mesh", "program"),
    [
        pytest.param(*case, marks=pytest.mark.long if case in LONG else pytest.mark.slow)
        for case in CASES
    ],
)
def test_losses_of_twenty_updates_do_not_depend_on_mesh_or_program(
    mesh, program, twenty_steps, losses_of_one_device, tmp_path
):
    one = override(twenty_steps, MESHES[mesh])
    tolerance = 1e-5  # float32 sums in another order
    if program == "bfloat16":
        one, tolerance = override(one, PROGRAMS[program]), 2e-3  # rounding to 8 bits
    train(override(dataclasses.replace(one, mesh=mesh_of(mesh)), PROGRAMS[program]), tmp_path)
    assert losses(tmp_path) == pytest.approx(losses_of_one_device(one), abs=tolerance)


def pretrain(config, workdir, *arguments, devices):
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices=devices)}
    command = ["-m", "bert_jax.pretrain", f"--experiment={config}", f"--workdir={workdir}"]
    return subprocess.Popen(
        [sys.executable, *command, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def pretrain_both(config, workdir, *, arguments=((), ())):
    """Starts two processes of four devices, each with its own arguments."""
    port = free_port()
    return [
        pretrain(
            config,
            workdir,
            f"--coordinator=127.0.0.1:{port}",
            "--process_count=2",
            f"--process_index={index}",
            *arguments[index],
            devices=4,
        )
        for index in range(2)
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((), ("--set=seed=1",)), "differs between processes"),
        ((("--set=mesh.tensor=8",),) * 2, "mesh.tensor"),
    ],
    ids=["another-seed", "too-few-heads"],
)
def test_processes_with_different_experiments_end_with_an_error(
    arguments, says, twenty_steps, tmp_path
):
    """Every process ends in one line, before anything is compiled."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(dataclasses.replace(twenty_steps, mesh=MeshConfig()))))
    for process in pretrain_both(config, tmp_path / "run", arguments=arguments):
        errors = process.communicate(timeout=100)[1]
        assert process.returncode == 2, errors
        assert any(line.startswith("error: ") and says in line for line in errors.splitlines())


# ---- Several processes ---------------------------------------------------------------------------


def run_processes(experiment, workdir, mesh, *, count, devices, slices=1, outputs=None):
    """Trains with `count` processes of `devices` devices each.

    Returns what each process recorded for each update: the number of rows that it read, and the
    SHA-256 of the rows that its devices hold.
    """
    workdir.parent.mkdir(exist_ok=True)
    config = workdir.with_suffix(".json")
    config.write_text(json.dumps(to_json(dataclasses.replace(experiment, mesh=mesh_of(mesh)))))
    coordinator = f"127.0.0.1:{free_port()}"
    records = [workdir.with_suffix(f".rows-{index}") for index in range(count)]
    running = []
    for index, record in enumerate(records):
        fields = {"config": config, "workdir": workdir, "record": record, "index": index}
        fields |= {"coordinator": coordinator, "count": count, "slices": slices}
        fields |= {"outputs": outputs} if outputs else {}
        running.append(
            subprocess.Popen(
                [sys.executable, SCRIPT, json.dumps(fields, default=str)],
                # Only process 0 would find its program in the cache. The collectives of a CPU wait
                # for the other processes, which compile, for 30 s only.
                env=os.environ
                | {
                    "XLA_FLAGS": xla_flags(devices=devices),
                    "JAX_ENABLE_COMPILATION_CACHE": "false",
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in running:
        errors = process.communicate(timeout=900)[1]
        assert process.returncode == 0, errors
    return [[json.loads(line) for line in record.open()] for record in records]


def global_rows(recorded):
    """Returns the SHA-256 of each row of each global batch. Processes with a row agree on it."""
    batches = []
    for of_processes in zip(*recorded, strict=True):
        rows = {}
        for _, digests in of_processes:
            assert all(rows.setdefault(row, digest) == digest for row, digest in digests.items())
        batches.append([rows[str(row)] for row in range(len(rows))])
    return batches


@pytest.fixture(scope="module")
def two_processes(twenty_steps, tmp_path_factory):
    """The experiment, the workdir and the rows of two processes of four devices."""
    often = override(twenty_steps, {"training.checkpoint_every": 10})
    workdir = tmp_path_factory.mktemp("two") / "run"
    return often, workdir, run_processes(often, workdir, "2x2x2", count=2, devices=4)


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_process_of_eight(
    twenty_steps, two_processes, tmp_path
):
    """XLA must not warn that it gathers a whole parameter to change its sharding."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(dataclasses.replace(twenty_steps, mesh=mesh))))
    alone = pretrain(config, tmp_path / "alone", devices=8)
    errors = alone.communicate(timeout=200)[1]
    assert alone.returncode == 0, errors
    assert "rematerialization" not in errors

    _, both, recorded = two_processes
    # Sums over two processes of four devices have another order.
    assert losses(both) == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    described = json.loads((both / "environment.json").read_text())
    assert (described["processes"], len(described["devices"])) == (2, 8)
    assert [[rows for rows, _ in one] for one in recorded] == [[8] * 20] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "count", "devices", "rows"),
    [("1x1x1", 1, 1, 16), ("2x2x2", 1, 8, 16), ("1x2x4", 4, 2, 8)],
    ids=["1x1", "1x8", "4x2"],
)
def test_a_run_of_two_processes_goes_on_with_others(
    mesh, count, devices, rows, two_processes, tmp_path
):
    """With mesh 1x2x4, two processes hold the same rows, because `tensor` crosses processes."""
    experiment, saved, recorded = two_processes
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    (workdir / "result.json").unlink()
    later = run_processes(experiment, workdir, mesh, count=count, devices=devices)
    assert global_rows(later) == global_rows(recorded)[10:]
    assert [[read for read, _ in one] for one in later] == [[rows] * 10] * count
    assert losses(workdir) == pytest.approx(losses(saved), abs=1e-5)


@pytest.mark.slow
def test_two_simulated_slices_of_two_processes_equal_one_process(
    twenty_steps, losses_of_one_device, tmp_path
):
    """Processes 0 and 2 are one slice, so process 2 holds the second part of the rows."""
    run = {"count": 4, "devices": 1, "slices": 2}
    small = override(twenty_steps, {"model.num_layers": 1})
    recorded = run_processes(small, tmp_path / "run", "2x2x1", **run)
    assert losses(tmp_path / "run") == pytest.approx(losses_of_one_device(small), abs=1e-5)
    held = [sorted(int(row) for row in one[0][1]) for one in recorded]
    assert held == [[*range(part * 4, part * 4 + 4)] for part in (0, 2, 1, 3)]


OPEN = """
import json, pathlib, sys, time
import jax, numpy as np
from bert_jax.models.bert import Bert
from bert_jax.runs import load
from bert_jax.training.initial import fingerprint_params

def memory(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0]) * 1024

jax.devices()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
before, start = memory("VmRSS"), time.monotonic()
run = load.load_run(sys.argv[1])
seconds, grown = time.monotonic() - start, memory("VmHWM") - before
known = np.load(sys.argv[2])
ids, zero = known["ids"], np.zeros_like(known["ids"])
arguments = {"params": run.params["bert"]}, ids, zero, zero + 1, zero[:, :1]
output = jax.jit(Bert(run.model.config).apply)(*arguments)
apart = [
    float(np.abs(np.asarray(found) - known[name]).max() / np.abs(known[name]).max())
    for name, found in (("sequence", output.sequence_output), ("pooled", output.pooled_output))
]
size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.params))
result = {"seconds": seconds, "memory": grown / size, "bytes": size, "apart": apart}
print(json.dumps(result | {"same": fingerprint_params(run.params) == known["params"].item()}))
"""
"""Opens a run as a notebook does, and measures seconds and memory beyond the imports."""


@pytest.mark.slow
def test_a_mini_of_two_processes_opens_on_one_cpu(twenty_steps, tmp_path):
    mini = {
        # The padding of the token table gives it the size of BERT's vocabulary.
        **{"model.vocab_multiple": 30_528, "model.hidden_size": 256, "model.num_layers": 4},
        **{"model.max_positions": 512, "model.scan_layers": True},
        **{"training.steps": 1, "training.eval_every": 1, "training.checkpoint_every": 1},
    }
    experiment, outputs = override(twenty_steps, mini), tmp_path / "outputs.npz"
    workdir = tmp_path / "run"
    run_processes(experiment, workdir, "2x2x2", count=2, devices=4, outputs=outputs)
    result = subprocess.run(
        [sys.executable, "-c", OPEN, workdir, outputs],
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bytes"] > 40e6
    # A stored part is in memory beside its array. Everything but the arrays takes 11 MB, which is
    # a quarter of a mini. Reading with orbax took 1.6 to 2.2 times the parameters.
    assert found["seconds"] <= 3 and found["memory"] <= 1.5, found
    assert found["same"], found
    # The parameters are bitwise the same, so only the order of float32 sums differs: on the mesh, a
    # sum over heads or intermediate units has two parts. The difference is relative to the largest
    # output, 3.7, where neighbouring float32 numbers are 2.4e-7 apart, 6e-8 of the output.
    assert max(found["apart"]) <= 1e-6, found
