"""`bert_jax.plan` without a TPU's compiler: estimates, searches, cache, text and errors."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import bert_jax
from bert_jax.command import load
from bert_jax.config import override, to_json
from bert_jax.errors import ConfigError
from bert_jax.planning import cache, compilation, search
from bert_jax.planning.estimate import estimate, memory_in_message, recommend, wire_bytes
from bert_jax.planning.report import report
from bert_jax.planning.topology import CHIPS, parse_topology
from bert_jax.training.experiment import phases

ROOT = Path(bert_jax.__file__).parents[1]
TOPOLOGY = parse_topology("v5e:2x4")
GIB = 2**30

# ---- The update of a small BERT, compiled for eight simulated devices ----------------------------


@pytest.fixture(scope="module")
def experiment():
    """A BERT of 2 layers of width 32, 12 updates. A plan needs no prepared data."""
    fields = {
        **{"model.vocab_size": 500, "model.hidden_size": 32, "model.num_layers": 2},
        **{"model.scan_layers": True, "training.steps": 12, "optimizer.warmup_steps": 2},
        **{"data.batch_size": 16, "evaluation.batch_size": 16},
    }
    return override(load(f"{ROOT}/experiments/quickstart.py"), fields)


@pytest.fixture(scope="module")
def compiled(experiment):
    """Returns the phase, its compiled update as `compile_update` gives it, and the estimate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "_devices", lambda topology: jax.devices())
        changed = override(experiment, {"mesh.data": 2, "mesh.fsdp": 4})
        found, text = compilation._describe(TOPOLOGY.name, changed)
    (phase,) = phases(changed)
    return phase, found, estimate(phase, TOPOLOGY, found, text)


def test_the_program_computes_what_the_formula_says(compiled):
    _, _, result = compiled
    assert result["flops_over_formula"] == pytest.approx(1, abs=0.02)
    assert result["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}


def test_the_kinds_of_memory_add_up_to_what_the_update_needs(compiled):
    _, found, result = compiled
    memory = result["memory_bytes"]
    kinds = ("parameters", "optimizer", "batch", "activations_and_gradients")
    assert memory["needed"] == found["peak_bytes"] == sum(memory[kind] for kind in kinds)
    assert min(memory[kind] for kind in kinds) > 0
    params = [leaf for leaf in found["state"] if leaf["path"].startswith("params/")]
    assert memory["parameters"] == sum(leaf["device_bytes"] for leaf in params)
    # Adam has two moments of each parameter, and counters.
    assert 0 <= memory["optimizer"] - 2 * memory["parameters"] < 64
    assert result["fits"] and not result["whole_parameters"]


def test_the_schedule_takes_as_long_as_its_steps(compiled):
    phase, _, result = compiled
    hidden, added = result["step_seconds"]
    seconds = result["seconds"]
    assert added == seconds["roofline"] + seconds["communication"]
    assert hidden == max(seconds["roofline"], seconds["communication"]) < added
    assert result["hours"] == [step * phase.steps / 3600 for step in (hidden, added)]
    assert result["chip_hours"] == [8 * hours for hours in result["hours"]]


def test_the_text_has_the_figures_and_calls_them_estimates(compiled):
    _, _, result = compiled
    plan = {
        **{"topology": "v5e:2x4", "platform": "tpu", "chips": 8, "level": "O1", "num_phases": 2},
        "phases": [result, result | {"phase": 2, "fits": False, "not_counted": ["while.1"]}],
    }
    text = report(plan)
    assert "estimate" in text and "O1" in text and "phase 2 of 2" in text
    assert text.count("not counted") == 1 and "while.1: figures are too low" in text
    assert "fits, 15.7" in text and "does not fit" in text
    assert "all phases" in text and "chip-hours for 24 updates" in text
    assert f"MFU {result['model_flops_utilization'][1]:.3f}" in text


# ---- Theory --------------------------------------------------------------------------------------


def leaf(path: str, size: int, *axes: str, parts: int = 1) -> dict:
    return {"path": path, "bytes": size, "device_bytes": size // parts, "mesh_axes": list(axes)}


STATE = [
    leaf("params/kernel", 8 * GIB, "fsdp", "tensor"),
    leaf("params/bias", GIB),
    leaf("opt_state/0/mean/kernel", 8 * GIB, "fsdp", "tensor"),
]


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ((1, 1, 1), {}),
        ((8, 1, 1), {"data": 2 * 9 * GIB * 7 / 8}),
        # Two gathers in bfloat16 and a float32 sum that leaves each device its part.
        ((1, 8, 1), {"fsdp": (2 * 4 + 8) * GIB * 7 / 8 + 2 * GIB * 7 / 8}),
        (
            (2, 4, 1),
            {"data": 2 * 2 * GIB / 2 + 2 * GIB * 7 / 8, "fsdp": (2 * 4 + 8) * GIB * 3 / 4},
        ),
    ],
)
def test_wire_bytes_of_gradients_and_parameters(mesh, expected, experiment):
    mesh = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    found = wire_bytes(override(experiment, {"model.dtype": "bfloat16"}), STATE, mesh)
    assert found == expected


def test_wire_bytes_of_activations_and_microbatches(experiment):
    mesh = {"data": 1, "fsdp": 4, "tensor": 2}
    one = wire_bytes(experiment, STATE, mesh)
    data, model = experiment.data, experiment.model
    rows = data.batch_size / 4
    activations = 4 * rows * data.sequence_length * model.hidden_size
    assert one["tensor"] == 2 * 4 * model.num_layers * activations / 2
    two = wire_bytes(override(experiment, {"training.microbatches": 2}), STATE, mesh)
    assert two["fsdp"] - one["fsdp"] == 2 * 4 * GIB * 3 / 4
    assert two["tensor"] == one["tensor"]


# ---- Memory --------------------------------------------------------------------------------------


def test_the_compiler_says_what_a_program_needs_that_does_not_fit():
    hbm = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    assert memory_in_message(f"{hbm}temporaries (101.99G) exceeds available HBM (15.75G).") == (
        pytest.approx(101.99 * GIB)
    )
    assert memory_in_message("Ran out of memory in memory space hbm. Used 20.50G of 15.48G") == (
        20.5 * GIB
    )
    assert memory_in_message(f"{hbm}temporaries (1.50T) exceeds available HBM (15.75G).") == (
        1536 * GIB
    )
    assert memory_in_message("RESOURCE_EXHAUSTED: another form") is None


def fake_compiler(per_row: float, *, whole: float = 0.0):
    """Returns a compiler whose programs need `whole` and `per_row` GiB a row of a microbatch."""
    compiled = []

    def compile_(experiment):
        ways = 8
        mesh = {"data": 8 // max(experiment.mesh.fsdp, 1), "fsdp": max(experiment.mesh.fsdp, 1)}
        rows = experiment.data.batch_size // ways // experiment.training.microbatches
        state = [leaf("params/kernel", 3 * GIB, "fsdp", parts=mesh["fsdp"])]
        state_bytes = sum(one["device_bytes"] for one in state)
        needed = state_bytes + whole * GIB + per_row * rows * GIB
        found = {"mesh": mesh | {"tensor": 1}, "state": state, "batch_bytes": 0}
        compiled.append((experiment.mesh.fsdp, rows, experiment.training.microbatches))
        if needed > 15.75 * GIB:
            message = f"total memory required for HLO temporaries ({needed / GIB}G) exceeds"
            return found | {"out_of_memory": message}, ""
        return found | {"peak_bytes": needed}, ""

    return compile_, compiled


def planned(experiment, compile_):
    (phase,) = phases(experiment)
    return phase, estimate(phase, TOPOLOGY, *compile_(phase.experiment))


def test_a_batch_that_does_not_fit_gets_the_fewest_parts_that_fit(experiment):
    compile_, compiled = fake_compiler(per_row=1.0)
    phase, result = planned(override(experiment, {"data.batch_size": 8 * 64}), compile_)
    assert not result["fits"] and "activations" in "".join(result["memory_bytes"])
    said = []
    found = search.what_fits(phase, TOPOLOGY, result, compile_=compile_, report=said.append)
    # Beside the parameters and the accumulated gradients, 9.75 GiB are free: 8 rows.
    assert found == {"fields": {"training.microbatches": 8}, "needed": 11 * GIB}
    assert said == ["trying --set training.microbatches=8"] and len(compiled) == 2


def test_a_state_that_does_not_fit_is_cut(experiment):
    compile_, _ = fake_compiler(per_row=1.0, whole=12.0)
    phase, result = planned(override(experiment, {"data.batch_size": 8 * 2}), compile_)
    found = search.what_fits(phase, TOPOLOGY, result, compile_=compile_, report=lambda _: None)
    assert found is not None
    assert found["fields"] == {"mesh.data": 1, "mesh.fsdp": 8, "training.microbatches": 1}


def test_slices_keep_their_own_copy_of_a_state_that_is_cut(experiment):
    compile_, _ = fake_compiler(per_row=1.0, whole=12.0)
    phase, result = planned(override(experiment, {"data.batch_size": 8 * 2}), compile_)
    found = search.what_fits(
        phase, TOPOLOGY, result | {"slices": 2}, compile_=compile_, report=lambda _: None
    )
    assert found is not None
    assert found["fields"] == {"mesh.data": 2, "mesh.fsdp": 4, "training.microbatches": 1}


def test_nothing_fits_if_one_row_needs_more_than_a_device_has(experiment):
    compile_, compiled = fake_compiler(per_row=100.0)
    phase, result = planned(experiment, compile_)
    found = search.what_fits(phase, TOPOLOGY, result, compile_=compile_, report=lambda _: None)
    assert found is None and len(compiled) <= 1 + search.MAX_COMPILES
    assert "no update that was tried fits" in result["recommendation"]


def test_an_update_that_is_not_compiled_is_reported_and_ends_no_plan(experiment):
    compile_, _ = fake_compiler(per_row=1.0)
    phase, result = planned(override(experiment, {"data.batch_size": 8 * 64}), compile_)

    def failing(experiment):
        raise ConfigError("the compiler crashed")

    said = []
    found = search.what_fits(phase, TOPOLOGY, result, compile_=failing, report=said.append)
    assert found is None and "not compiled: the compiler crashed" in said
    said.clear()
    found = search.largest_microbatch(phase, TOPOLOGY, result, compile_=failing, report=said.append)
    assert found == {"rows": 0, "needed": None, "too_large": None}
    assert said[-1] == "not compiled: the compiler crashed"


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_the_largest_microbatch_is_found_from_any_start(rows, experiment):
    compile_, compiled = fake_compiler(per_row=1.5)
    phase, result = planned(override(experiment, {"data.batch_size": 8 * rows}), compile_)
    found = search.largest_microbatch(
        phase, TOPOLOGY, result, compile_=compile_, report=lambda _: None
    )
    assert found["rows"] == 8 and found["needed"] == 15 * GIB
    assert len(compiled) <= 1 + search.MAX_COMPILES


# ---- Cache ---------------------------------------------------------------------------------------


@pytest.fixture
def cached(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "compiler_versions", lambda topology: dict(versions))
    versions, calls = {"libtpu": "1"}, []

    def compile_update(experiment, topology, *, time_limit):
        calls.append(topology.name)
        return {"mesh": {}}, "HloModule"

    def plan(experiment, topology=TOPOLOGY):
        return cache.compile_update(experiment, topology, time_limit=1)

    monkeypatch.setattr(compilation, "compile_update", compile_update)

    return plan, calls, versions


def test_the_same_update_is_compiled_once(cached, experiment):
    plan, calls, versions = cached
    first, second = plan(experiment), plan(experiment)
    assert first == second and calls == ["v5e:2x4"]
    assert first[1] == "HloModule" and Path(first[0]["program"]).exists()
    plan(override(experiment, {"data.batch_size": 32}))
    plan(experiment, parse_topology("v5e:4x4"))
    versions["libtpu"] = "2"
    plan(experiment)
    assert calls == ["v5e:2x4", "v5e:2x4", "v5e:4x4", "v5e:2x4"]


@pytest.mark.parametrize("suffix", [".json.gz", ".hlo.gz"])
def test_a_damaged_file_of_the_cache_costs_only_the_cache(suffix, cached, experiment, tmp_path):
    plan, calls, _ = cached
    first = plan(experiment)
    (file,) = tmp_path.rglob(f"*{suffix}")
    whole, damages = file.read_bytes(), [b"", b"\0" * 40, b"{"]
    damages += [whole[:-9], whole[:12] + bytes([whole[12] ^ 4]) + whole[13:]]
    for count, content in enumerate(damages, 2):
        file.write_bytes(content)
        assert plan(experiment) == first and len(calls) == count
        assert file.read_bytes() == whole


# ---- Mistakes of the user ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("v5e", "v5e:", "v5e-8", "v7x:2x2", "v5e:0x2", "v5e:3x3", "v5e:2x2x2", "v4:2x2"),
        *("h100:1x2x4", "0xv5e:2x2", "1xv5e:2x2", "2xv4:2x2x1", "2xh100:8"),
    ],
)
def test_a_topology_that_has_no_meaning_is_refused(name):
    with pytest.raises(ConfigError, match=f"--topology is '{name}'; accepted: "):
        parse_topology(name)


def test_a_topology_has_the_arguments_that_jax_takes():
    assert parse_topology("v5p:2x2x2").num_chips == 8
    two = parse_topology("2xv5e:2x4")
    assert (two.num_chips, two.num_slices) == (16, 2)
    assert two.xla_arguments == {"topology_name": "v5e:2x4", "num_slices": 2}
    assert parse_topology("v4:2x2x1").xla_arguments == {
        "topology_name": "v4:2x2x1",
        "chip_config_name": "megacore",
    }
    assert parse_topology("h100:8").xla_arguments["topology"] == "1x1x8"
    assert parse_topology("h100:4x8").xla_arguments["topology"] == "1x4x8"
    assert parse_topology("h100:4x8").num_slices == 4
    assert "H100" in parse_topology("h100:8").xla_arguments["target_config"]


def test_a_compiler_that_is_not_installed_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(cache.PACKAGES, "tpu", (["no-such-compiler"], "plan"))
    with pytest.raises(ConfigError, match=r"no-such-compiler.* pip install -e '\.\[plan\]'"):
        cache.compiler_versions(TOPOLOGY)


def test_one_of_several_compilers_is_enough(monkeypatch):
    monkeypatch.setitem(cache.PACKAGES, "cuda", (["no-such-compiler", "numpy"], "plan-gpu"))
    assert list(cache.compiler_versions(parse_topology("h100:8"))) == ["jax", "jaxlib", "numpy"]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (["import sys; print('mesh is wrong', file=sys.stderr); sys.exit(2)"], "^mesh is wrong$"),
        (["import os; os.abort()"], "ended with status -6"),
        (["import time; time.sleep(60)"], "--time_limit"),
    ],
    ids=["mistake", "crash", "too slow"],
)
def test_what_happens_to_the_compiler_is_said_in_one_line(run, said, experiment, monkeypatch):
    start = subprocess.run

    def instead(command, **options):
        return start([sys.executable, "-c", *run], **options)

    monkeypatch.setattr(compilation.subprocess, "run", instead)
    with pytest.raises(ConfigError, match=said):
        compilation.compile_update(experiment, TOPOLOGY, time_limit=1.5)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(ConfigError("mesh\nis wrong"), 2, "mesh is wrong"), (KeyError("a"), 1, "KeyError: 'a'")],
)
def test_the_process_of_the_compiler_ends_with_one_line(
    error, status, said, experiment, monkeypatch, tmp_path, capsys
):
    def fail(name, experiment):
        raise error

    monkeypatch.setattr(compilation, "_describe", fail)
    request = tmp_path / "request"
    request.write_text(json.dumps(to_json(experiment)))
    with pytest.raises(SystemExit) as ended:
        compilation._main(TOPOLOGY.name, str(request), "found", "program")
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize("size", [3, 16])
def test_a_mesh_of_fewer_or_more_devices_is_refused(size, experiment, monkeypatch):
    """jax refuses three of the devices of a TPU with an assertion about coordinates."""
    monkeypatch.setattr(compilation, "_devices", lambda topology: jax.devices())
    with pytest.raises(ConfigError, match=f"mesh has {size} devices, but v5e:2x4 has 8; accepted"):
        compilation._describe(TOPOLOGY.name, override(experiment, {"mesh.data": size}))


# ---- Recommendations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fits": False}, "use more chips"),
        ({"parameters": 2.0, "optimizer": 4.0}, "set mesh.fsdp=8 and mesh.data=1"),
        ({"fsdp": 8, "parameters": 0.1, "optimizer": 0.2}, "set mesh.data=-1 and mesh.fsdp=1"),
        ({"fsdp": 8, "parameters": 0.1, "optimizer": 0.2, "needed": 15.0}, "none: the update"),
        ({"communication": 2.0}, "fewer chips"),
        ({"microbatches": 4}, "fewer than 4"),
        ({"communication": 0.3}, "more rows per device"),
        ({"memory": 0.9, "matrix": 0.3}, "3.0 x the matrix time"),
        ({}, "no part dominates"),
    ],
)
def test_one_change_is_recommended(change, said, experiment):
    values = {
        **{"fits": True, "microbatches": 1, "parameters": 1.0, "optimizer": 2.0},
        **{"communication": 0.1, "memory": 0.5, "matrix": 0.5, "needed": 4.0, "fsdp": 1},
        **change,
    }
    available = CHIPS["v5e"].memory
    result = {
        **{name: values[name] for name in ("fits", "microbatches")},
        "mesh": {"data": 8 // values["fsdp"], "fsdp": values["fsdp"], "tensor": 1},
        "slices": 1,
        "seconds": {"roofline": 1.0}
        | {name: values[name] for name in ("communication", "memory", "matrix")},
        "memory_bytes": {
            **{name: values[name] * GIB for name in ("parameters", "optimizer", "needed")},
            "available": available,
        },
    }
    (phase,) = phases(override(experiment, {"model.dtype": "bfloat16"}))
    assert said in recommend(result, phase)


def test_the_result_is_json(compiled):
    _, _, result = compiled
    assert json.loads(json.dumps(result)) == result
