"""launch/gpu_check.sh runs its stages on a CPU, and a stage that fails or hangs stops nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import xla_flags
from scripts import load_script

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]


@pytest.fixture
def clone(tmp_path):
    """A directory like the repository, without data."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "gpu_check.sh", tmp_path / "launch")
    for name in ("bert_jax", "benchmarks", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def check(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with this Python."""
    return subprocess.run(
        ["bash", clone / "launch" / "gpu_check.sh", *arguments],
        env=os.environ
        | {"PYTHON": sys.executable, "OUT": str(clone / "out"), "XLA_FLAGS": xla_flags(devices=1)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_prepared_data_the_script_says_how_to_make_them(clone):
    result = check(clone, "--small")
    assert result.returncode == 2
    assert "error: .gpu/data is missing; accepted: after bash launch/gpu_check.sh --prepare" in (
        result.stderr
    )
    assert not (clone / "out").exists()


@pytest.mark.long
def test_all_stages_run_on_a_cpu(clone):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    cases = [sys.executable, "benchmarks/gpu_cases.py"]
    (clone / "experiment.json").write_bytes(
        subprocess.run(cases, cwd=clone, env=environment, capture_output=True, check=True).stdout
    )
    prepare = [sys.executable, "-m", "bert_jax.prepare", "--experiment=experiment.json"]
    subprocess.run(prepare, cwd=clone, env=environment, capture_output=True, check=True)
    printed = check(clone, "--small").stdout
    result = json.loads((clone / "out" / "gpu.json").read_text())
    assert [stage.get("error") for stage in result["stages"]] == [None] * 6, printed
    rows = {row["stage"]: row for row in result["rows"]}
    assert set(rows) == {"environment", "losses", "attention", "training", "kernels", "times"}
    losses = [row["losses"] for row in result["rows"] if row["stage"] == "losses"]
    assert len(losses) == 4 and all(len(row) == 20 for row in losses)
    # float32 three times, and bfloat16 on a device with the same arithmetic.
    assert max(abs(a - b) for row in losses for a, b in zip(row, losses[0], strict=True)) < 1e-2
    for row in result["rows"]:
        if row["stage"] == "attention":
            assert row["finite"] and max(row["differences"]) < 0.03, row  # bfloat16
    training = rows["training"]
    assert training["resumed_from"] <= training["killed_after"] < training["last_step"]
    assert training["repeated_losses_differ_by"] == 0
    assert sum(rows["kernels"]["parts"].values()) == pytest.approx(
        rows["kernels"]["seconds_of_kernels"]
    )
    assert (clone / "out" / "table.txt").read_text() in printed
    assert sorted(path.name for path in (clone / "out").iterdir()) == [
        *("gpu.json", "log.txt", "table.txt")
    ]


@pytest.mark.parametrize(
    ("code", "limit", "error"),
    [
        ("raise ValueError('no use')", 60, "status 1: ValueError: no use"),
        ("import subprocess; subprocess.run(['sleep', '60'])", 1, "not done after 1 s"),
    ],
)
def test_a_stage_that_fails_or_hangs_is_reported(code, limit, error, tmp_path, monkeypatch):
    gpu_check = load_script("gpu_check")
    (tmp_path / "work").mkdir()

    def start(name, out, *options):
        log = (out / "work" / f"{name}.log").open("w")
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=log, stderr=log, start_new_session=True
        )

    monkeypatch.setattr(gpu_check, "start", start)
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 1)
    begin = time.monotonic()
    assert error in gpu_check.run("losses", tmp_path, limit=limit)["error"]
    assert time.monotonic() - begin < 50
    late = gpu_check.run("losses", tmp_path, limit=0.5)
    assert late == {"seconds": 0, "error": "no time was left"}


def test_the_table_shows_results_and_errors():
    table = load_script("gpu_table").table
    losses = {"stage": "losses", "device": "gpu", "guard_stops_copies": True}
    times = {
        **{"stage": "times", "case": "base@512", "rows": 64, "seconds": 0.1, "compile_seconds": 20},
        **{"tokens_per_second": 327680.0, "model_flops_utilization": 0.4, "peak_bytes": 2**34},
    }
    result = {
        "stages": [
            {"name": "losses", "seconds": 12.3},
            {"name": "attention", "seconds": 40.0, "error": "not done after 40 s"},
        ],
        "rows": [
            {**losses, "on_the_cpu": True, "setting": "float32/highest", "losses": [9.0, 8.0]},
            {**losses, "on_the_cpu": False, "setting": "bfloat16/default", "losses": [9.0, 8.25]},
            {**times, "side": "bert_jax"},
            {**times, "side": "strongest", "seconds": 0.15},
            {"stage": "times", "case": "large@512", "side": "stock", "error": "out of memory"},
        ],
    }
    text = table(result)
    assert "largest difference 2.5e-01" in text
    assert "16.00        20.0   1.50" in text
    assert "large@512  stock                out of memory" in text
    assert "attention      40.0 s  not done after 40 s" in text


def test_kernels_are_assigned_to_parts_of_the_model():
    kernels = load_script("gpu_kernels")
    name = "jit(train_step)/jvp(B)/layers/attention/mul"
    program = f'  %fusion.1 = f32[8] fusion(), metadata={{op_name="{name}"}}'
    assert kernels.operation_places(program) == {"fusion.1": name, "fusion_1": name}
    assert kernels.part_of(name) == "attention"
    assert kernels.part_of("jit(train_step)/transpose(jvp(B))/layers/Dropout_0/mul") == (
        "dropout, backward"
    )
    assert kernels.part_of("jit(train_step)/mul") == "optimizer"
    assert kernels.part_of("") == "unnamed"
