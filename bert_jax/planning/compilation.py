"""Compiles the update of an experiment for chips that this machine does not have.

`compile_update` runs this module in a new process, because the compiler may crash or exceed the
time limit. The new process writes a description (JSON) and the text of the XLA program to files.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from bert_jax import config, xla_flags
from bert_jax.errors import ConfigError
from bert_jax.planning.topology import Topology, parse_topology
from bert_jax.sharding import make_mesh
from bert_jax.training.build import assemble, batch_sharding
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.state import abstract_state, example_row

OPTIMIZATION_LEVEL = "O1"
"""XLA's optimization level. The default, which training uses, compiles several times slower."""

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_OPTIMIZATION_LEVEL": OPTIMIZATION_LEVEL,
    "CUDA_VISIBLE_DEVICES": "-1",
    # There is no TPU. These settings keep libtpu from network queries, lock files and logs.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    **{variable: xla_flags.merge(variable, "") for variable in xla_flags.VARIABLES.values()},
}

USER_ERROR = 2


def compile_update(
    experiment: Any, topology: Topology, *, time_limit: float
) -> tuple[dict[str, Any], str]:
    """Calls `_describe` in a new process. Returns its results: a dict and the program's text.

    Raises:
      ConfigError: the experiment does not suit the topology, or the compiler fails or is too slow.
    """
    ignored = ("JAX_", "XLA_", "LIBTPU_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    with tempfile.TemporaryDirectory() as directory:
        request, found, program = (Path(directory) / name for name in ("request", "found", "hlo"))
        request.write_text(json.dumps(config.to_json(experiment)))
        command = [sys.executable, "-m", __name__, topology.name, request, found, program]
        command += [str(code.path) for code in config.codes_of(experiment)]
        try:
            result = subprocess.run(
                command,
                env=kept | ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
                timeout=time_limit,
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"the compiler has not finished after {time_limit:.0f} s; accepted: a longer "
                "--time_limit, or model.scan_layers=true, which compiles a single layer"
            ) from error
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        if result.returncode == USER_ERROR:
            raise ConfigError(last_line)
        if result.returncode:
            raise ConfigError(
                f"the compiler for {topology.name} ended with status {result.returncode}: "
                f"{last_line[:300]}"
            )
        return json.loads(found.read_text()), program.read_text() if program.exists() else ""


def _describe(name: str, experiment: Any) -> tuple[dict[str, Any], str]:
    """Compiles the update; returns a dict (memory, state arrays, mesh) and the program's text."""
    topology = parse_topology(name)
    devices = _devices(topology)
    # The description of a GPU does not have the slice_index of a GPU.
    by_host = (lambda device: device.process_index) if topology.chip.platform == "cuda" else None
    size = math.prod(astuple(experiment.mesh))  # negative if one of the sizes is -1
    if size > 0 and size != len(devices):
        raise ConfigError(
            f"mesh has {size} devices, but {name} has {len(devices)}; accepted: a mesh of all "
            "devices, such as mesh.data=-1"
        )
    mesh = make_mesh(experiment.mesh, devices, slice_of_device=by_host)
    assembly = assemble(phases(experiment)[0], mesh)
    state = abstract_state(assembly.initialize, assembly.sharding)
    data, rows = experiment.data, batch_sharding(experiment, mesh)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (data.batch_size, *leaf.shape[1:]), leaf.dtype, sharding=rows
        ),
        example_row(data),
    )
    found: dict[str, Any] = {
        "mesh": dict(mesh.shape),
        "state": [_leaf(*leaf) for leaf in jax.tree_util.tree_leaves_with_path(state)],
        "batch_bytes": sum(_leaf((), leaf)["device_bytes"] for leaf in batch),
    }
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = assembly.lower(state, batch)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return found | {"out_of_memory": str(error)}, ""
    found["compile_seconds"] = time.perf_counter() - start
    memory = compiled.memory_analysis()
    assert memory is not None  # the compilers of TPUs and GPUs have it
    found["peak_bytes"] = memory.peak_memory_in_bytes
    return found, compiled.as_text() or ""


def _devices(topology: Topology) -> list[Any]:
    try:
        described = topologies.get_topology_desc(
            platform=topology.chip.platform, **topology.xla_arguments
        )
    except Exception as error:  # its class depends on the platform
        message = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--topology={topology.name} is not known to its compiler ({message}); accepted: a "
            "shape in which this chip exists"
        ) from error
    return list(described.devices)


def _leaf(path: tuple, leaf: Any) -> dict[str, Any]:
    cut = [axes if isinstance(axes, tuple) else (axes,) for axes in leaf.sharding.spec]
    shard = leaf.sharding.shard_shape(leaf.shape)
    return {
        "path": jax.tree_util.keystr(path, simple=True, separator="/"),
        "mesh_axes": [axis for axes in cut for axis in axes if axis],
        "bytes": leaf.size * leaf.dtype.itemsize,
        "device_bytes": math.prod(shard) * leaf.dtype.itemsize,
    }


def _main(topology: str, request: str, found: str, program: str, *code: str) -> None:
    try:
        for file in code:
            config.load_module(file)
        experiment = config.from_json(Experiment, json.loads(Path(request).read_text()))
        description, text = _describe(topology, experiment)
    except Exception as error:  # the user sees the last line, so it has the whole message
        mistake = isinstance(error, ConfigError)
        kind = "" if mistake else f"{type(error).__name__}: "
        print(kind + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(USER_ERROR if mistake else 1)
    if text:
        Path(program).write_text(text)
    Path(found).write_text(json.dumps(description))


if __name__ == "__main__":
    _main(*sys.argv[1:])
