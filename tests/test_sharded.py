"""A run gives the same losses on any mesh and with any number of processes."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import pytest
from commands import free_port

from bert_jax.config import override, to_json
from bert_jax.sharding import MeshConfig
from bert_jax.training.train import train

MESHES = {
    "8x1x1": MeshConfig(data=8),
    "1x8x1": MeshConfig(data=1, fsdp=8),
    "2x2x2": MeshConfig(data=2, fsdp=2, tensor=2),
    "1x2x4": MeshConfig(data=1, fsdp=2, tensor=4),
    "6x1x1": MeshConfig(data=6),
}

PROGRAMS = {
    "unrolled": {},
    "scanned": {"model.scan_layers": True},
    "remat": {"model.remat": "full"},
    "scanned-remat": {"model.scan_layers": True, "model.remat": "full"},
    "bfloat16": {"model.dtype": "bfloat16"},
}
"""Changes that give another program for the same losses; bfloat16 has losses of its own."""

CASES = [
    *((mesh, program) for mesh in MESHES for program in ("unrolled", "scanned-remat", "bfloat16")),
    *(("2x2x2", program) for program in ("scanned", "remat")),
]


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
@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "program"), CASES)
def test_losses_of_twenty_updates_do_not_depend_on_mesh_or_program(
    mesh, program, twenty_steps, losses_of_one_device, tmp_path
):
    rows = {"data.batch_size": 12, "evaluation.batch_size": 12} if mesh == "6x1x1" else {}
    one = override(twenty_steps, rows)
    tolerance = 1e-5  # float32 sums in another order
    if program == "bfloat16":
        one, tolerance = override(one, PROGRAMS[program]), 2e-3  # rounding to 8 bits
    train(override(dataclasses.replace(one, mesh=MESHES[mesh]), PROGRAMS[program]), tmp_path)
    assert losses(tmp_path) == pytest.approx(losses_of_one_device(one), abs=tolerance)


def pretrain(config, workdir, *arguments, devices):
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
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
    ids=["another-seed", "tensor-over-processes"],
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


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_process_of_eight(twenty_steps, tmp_path):
    """XLA must not warn that it gathers a whole parameter to change its sharding."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(dataclasses.replace(twenty_steps, mesh=mesh))))
    alone = pretrain(config, tmp_path / "alone", devices=8)
    errors = alone.communicate(timeout=200)[1]
    assert alone.returncode == 0, errors
    assert "rematerialization" not in errors

    both = pretrain_both(config, tmp_path / "both")
    for process in both:
        errors = process.communicate(timeout=200)[1]
        assert process.returncode == 0, errors
    # Sums over two processes of four devices have another order.
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    described = json.loads((tmp_path / "both" / "environment.json").read_text())
    assert (described["processes"], len(described["devices"])) == (2, 8)
