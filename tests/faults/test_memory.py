"""Too little memory is one line with the sizes and a remedy, and leaves nothing behind."""

import json
import os
import resource
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import run_command

from bert_jax import command
from bert_jax.config import override, to_json
from bert_jax.errors import OutOfMemoryError
from bert_jax.faults import memory
from bert_jax.faults.memory import check_fits, explain_lack_of_memory
from bert_jax.sharding import make_mesh
from bert_jax.training.build import assemble, check_memory, compile_update
from bert_jax.training.experiment import phases
from bert_jax.training.state import abstract_state, example_batch

TPU_AT_COMPILE = (
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 113.54G of 15.75G hbm. "
    "Exceeded hbm capacity by 97.79G.\n\nTotal hbm usage >= 114.04G:\n    reserved  530.00M"
)
GPU_AT_RUN = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 137438953472 bytes."


def raise_xla(message):
    raise jax.errors.JaxRuntimeError(message)


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (lambda: jnp.zeros(2**45).block_until_ready(), "Out of memory allocating 131,072.00 GiB"),
        (lambda: np.empty(2**58, np.float32), "Unable to allocate 1.00 EiB"),
        (lambda: [0] * 2**60, "memory is too small"),
        (lambda: raise_xla(TPU_AT_COMPILE), "Used 113.54G of 15.75G hbm"),
        (lambda: raise_xla(GPU_AT_RUN), "Out of memory while trying to allocate 128.00 GiB"),
        (lambda: raise_os(12), "Cannot allocate memory"),
    ],
    ids=["xla-cpu", "numpy", "python", "xla-tpu", "xla-gpu", "system"],
)
def test_each_library_s_error_becomes_one_line(fail, said, experiment):
    with pytest.raises(OutOfMemoryError) as error, explain_lack_of_memory(experiment):
        fail()
    line = str(error.value)
    assert said in line and "\n" not in line
    assert "accepted: smaller data.batch_size (16), data.sequence_length (32)" in line
    assert line.endswith(
        "or larger training.microbatches (1), mesh.fsdp (1), or model.remat=full with "
        "model.scan_layers=true, or more memory"
    )


def raise_os(number):
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), OSError(28, "full"), OutOfMemoryError("said"), ValueError("x")]
)
def test_another_error_stays_as_it_is(error):
    with pytest.raises(type(error)) as found, explain_lack_of_memory():
        raise error
    assert found.value is error


def test_the_line_names_the_flags_of_a_command_without_an_experiment():
    with pytest.raises(OutOfMemoryError, match=r"accepted: smaller --batch_size \(32\), or more"):
        with explain_lack_of_memory(batch_size=32):
            raise MemoryError


def test_the_memory_of_an_accelerator_is_what_its_programs_may_use():
    devices = [
        SimpleNamespace(
            platform="gpu", process_index=0, memory_stats=lambda limit=limit: {"bytes_limit": limit}
        )
        for limit in (2**34, 2**33)
    ]
    assert memory.device_memory(devices) == 2**33
    check_fits({"parameters": 2**33}, None, devices)
    with pytest.raises(OutOfMemoryError, match=r"at least 8.00 GiB .* \(a 8.00 GiB, b 0.0 MiB\)"):
        check_fits({"a": 2**33, "b": 1}, None, devices)
    unknown = SimpleNamespace(platform="tpu", process_index=0, memory_stats=lambda: None)
    check_fits({"parameters": 1e30}, None, [unknown])


def test_devices_of_a_cpu_share_the_memory_of_the_machine():
    one, all_of_them = jax.devices()[:1], jax.devices()
    assert memory.device_memory(one) == len(all_of_them) * memory.device_memory(all_of_them)
    assert 2**28 < memory.device_memory(one) < 2**50


def test_the_state_is_compared_with_the_memory_before_anything_is_compiled(experiment, monkeypatch):
    """AdamW's two moments are as large as the parameters, and fsdp cuts all three."""
    (phase,) = phases(experiment)
    assembly = assemble(phase, make_mesh(experiment.mesh))
    state = abstract_state(assembly.initialize, assembly.sharding)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    batch = example_batch(batch_size=16, length=32, predictions=6)
    held += sum(array.nbytes for array in batch) - state.step.dtype.itemsize
    monkeypatch.setattr(memory, "_host_memory", lambda: held)
    assert check_memory(assembly) is assembly
    monkeypatch.setattr(memory, "_host_memory", lambda: held - 1)
    with pytest.raises(OutOfMemoryError, match="parameters .* optimizer state .* a batch "):
        check_memory(assembly)


@pytest.mark.slow
def test_a_program_for_a_cpu_is_compared_with_the_memory_before_it_runs(experiment, monkeypatch):
    (phase,) = phases(experiment)
    assembly = assemble(phase, make_mesh(experiment.mesh))
    state = abstract_state(assembly.initialize, assembly.sharding)
    batch = example_batch(batch_size=16, length=32, predictions=6)
    with jax.set_mesh(make_mesh(experiment.mesh)):
        compile_update(assembly, state, batch)
        monkeypatch.setattr(memory, "_host_memory", lambda: 2**20)
        with pytest.raises(OutOfMemoryError, match="state and batch .* activations "):
            compile_update(assembly, state, batch)


@pytest.mark.parametrize("saved", [None, "checkpoints/5", "seed-0", "train-00000-of-00002.json"])
def test_a_directory_in_which_nothing_is_saved_is_removed(saved, tmp_path):
    directory = tmp_path / "new" / "run"
    with pytest.raises(OutOfMemoryError), command.exclusive(directory):
        (directory / "tensorboard").mkdir()
        (directory / "config.json").write_text("{}")
        if saved and saved.endswith(".json"):
            (directory / saved).touch()
        elif saved:
            (directory / saved).mkdir(parents=True)
            (directory / saved / "result.json").touch()
        raise MemoryError
    assert directory.exists() == directory.parent.exists() == bool(saved)


def test_a_directory_that_existed_stays(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OutOfMemoryError), command.exclusive(tmp_path):
        raise MemoryError
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# ---- Commands that may use little memory ---------------------------------------------------------


def run_with(gigabytes, name, *arguments, directory):
    """Runs a command whose address space is limited."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (gigabytes * 2**30,) * 2)

    return run_command(name, *arguments, cwd=directory, preexec_fn=limit)


@pytest.fixture(scope="module")
def file(experiment, tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "config.json"
    path.write_text(json.dumps(to_json(override(experiment, {"training.eval_every": 1}))))
    return path


@pytest.mark.parametrize(
    ("name", "assignment", "said"),
    [
        pytest.param("bench", "data.batch_size=1000000", "activations 3", marks=pytest.mark.long),
        pytest.param(
            *("pretrain", "evaluation.batch_size=1000000", "Out of memory allocating "),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["update", "evaluation"],
)
def test_a_batch_that_is_too_large_ends_in_one_line(name, assignment, said, file, tmp_path):
    """The program of the update is refused before it runs; the evaluation fails while it runs."""
    workdir = [f"--workdir={tmp_path}/new/run"] if name == "pretrain" else []
    arguments = [f"--experiment={file}", *workdir, f"--set={assignment}"]
    result = run_with(8, name, *arguments, directory=tmp_path)
    *progress, line = result.stderr.splitlines()
    assert result.returncode == 2 and line.startswith("error: "), result.stderr
    for part in (said, assignment.split("=")[0], "model.remat=full"):
        assert part in line
    assert "Traceback" not in result.stderr and "error" not in "".join(progress)
    assert list(tmp_path.iterdir()) == []
