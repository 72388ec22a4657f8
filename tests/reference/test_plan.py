"""`bert_jax.plan` with the compiler of a TPU, which needs no TPU: BERT-tiny on four v5e chips."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax.planning import hlo, roofline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """`plan(flag, ...)` runs the command for BERT-tiny in bfloat16 and returns the process."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            *(sys.executable, "-m", "bert_jax.plan", "--experiment=experiments/bert.py:tiny"),
            *("--set=model.dtype=bfloat16", "--set=model.scan_layers=true", "--set=phases=[]"),
        ]
        return subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def result(plan):
    process = plan("--topology=v5e:2x2", "--json")
    assert process.returncode == 0, process.stderr
    (phase,) = json.loads(process.stdout)["phases"]
    return phase


def test_the_program_computes_and_sends_what_theory_says(result):
    assert result["flops_over_formula"] == pytest.approx(1, abs=0.01)
    assert result["wire_bytes"] <= 1.02 * sum(result["wire_bytes_in_theory"].values())
    assert [one["kind"] for one in result["collectives"] if one["dtype"] == "f32"] == ["all-reduce"]


def test_the_logits_are_the_only_array_of_their_size(result):
    """The loss and the gradient of the logits are computed inside the fusions that use them."""
    with gzip.open(result["program"], "rt") as file:
        program = hlo.parse(file.read())
    found = [
        one.op
        for one in program.computations[program.entry].values()
        if re.search(r"\[64,20,30592\]", one.type) and one.op not in roofline.FREE
    ]
    assert found == ["fusion"]


def test_it_fits_and_its_times_are_consistent(result):
    memory, seconds = result["memory_bytes"], result["seconds"]
    assert result["fits"] and memory["needed"] < memory["available"] / 10
    assert seconds["matrix"] < seconds["memory"] <= seconds["roofline"]
    assert 0 < result["model_flops_utilization"][1] < result["model_flops_utilization"][0] < 1


def test_a_users_own_model_and_optimizer_are_planned(plan):
    memory = {}
    for name in ("alibi", "lion"):
        own = f"--experiment=experiments/own_parts/{name}.py"  # the last of two values counts
        process = plan("--topology=v5e:2x2", own, "--json")
        assert process.returncode == 0, process.stderr
        (phase,) = json.loads(process.stdout)["phases"]
        assert phase["fits"] and phase["flops_over_formula"] == pytest.approx(1, abs=0.01)
        memory[name] = phase["memory_bytes"]
    # ALiBi has no table of 512 positions. Lion has one moment of each parameter, AdamW has two.
    assert memory["lion"]["parameters"] - memory["alibi"]["parameters"] == 512 * 256 * 4
    for name, moments in (("alibi", 2), ("lion", 1)):
        counters = memory[name]["optimizer"] - moments * memory[name]["parameters"]
        assert 0 < counters < 64


def test_a_second_plan_comes_from_the_cache(plan, result):
    cache = Path(result["program"]).parent  # the other tests of this file write there, too
    before = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    process = plan("--topology=v5e:2x2")
    assert process.returncode == 0, process.stderr
    assert "1.000 of the formula" in process.stdout
    assert before == {file: file.stat().st_mtime_ns for file in cache.iterdir()}


def test_a_program_that_does_not_fit_is_answered_with_one_that_does(plan):
    process = plan("--topology=v5e:2x2", "--set=data.batch_size=32768", "--json")
    assert process.returncode == 0, process.stderr
    (phase,) = json.loads(process.stdout)["phases"]
    assert not phase["fits"] and phase["memory_bytes"]["needed"] > 15.75 * 2**30
    assert phase["fitting"]["fields"]["training.microbatches"] > 1
    assert phase["fitting"]["needed"] <= 15.75 * 2**30


def test_only_the_sum_of_gradients_over_data_crosses_the_network_between_slices(plan):
    fields = ("mesh.data=2", "mesh.fsdp=4")
    process = plan("--topology=2xv5e:2x2", "--json", *(f"--set={field}" for field in fields))
    assert process.returncode == 0, process.stderr
    (phase,) = json.loads(process.stdout)["phases"]
    with gzip.open(phase["program"], "rt") as file:
        program = hlo.parse(file.read())
    instructions = [one for body in program.computations.values() for one in body.values()]
    # The groups of a TPU's collectives are numbers of chips within a slice: here 0 to 3.
    groups = {one.attribute(r"replica_groups=(\S+}),") for one in instructions} - {None}
    assert groups == {"{{0,1,2,3}}"}
    kinds = {one.attribute(r'transfer_type="(\w+)"') for one in instructions if one.op == "send"}
    targets = {one.attribute(r'target="(.*?)"') for one in instructions if one.op == "send"}
    assert kinds == {"ALL_REDUCE"} and targets == {"{1,2}x{0:3}"}
    assert phase["slice_bytes"] == pytest.approx(phase["wire_bytes_in_theory"]["data"], rel=0.05)


def test_a_mesh_whose_axis_fsdp_would_cross_slices_ends_in_one_line(plan):
    fields = ("mesh.data=1", "mesh.fsdp=8")
    process = plan("--topology=2xv5e:2x2", *(f"--set={field}" for field in fields))
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.splitlines()[-1].endswith("such as 2 x 4 x 1")
    assert "Traceback" not in process.stderr


def test_the_rows_of_a_process_follow_the_mesh():
    """On a 4 x 4 slice of v5e, a ring through all chips leaves the chips of a host and returns."""
    from jax.experimental import topologies

    from bert_jax.data.batch import Host
    from bert_jax.sharding import MeshConfig, ShardingRules, make_mesh, row_sharding
    from bert_jax.training.build import host_of

    described = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    mesh = make_mesh(MeshConfig(data=16), described.devices)
    rows = row_sharding(32, "data.batch_size", rules=ShardingRules(), mesh=mesh)
    assert host_of(rows) == Host((0, 1, 6, 15), 16)


def test_a_shape_that_no_slice_has_ends_in_one_line(plan):
    process = plan("--topology=v5p:3x2x2")
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.splitlines()[-1].startswith("error: --topology=v5p:3x2x2 ")
    assert "Traceback" not in process.stderr
