"""A mistake of a user ends in one line on stderr and exit status 2, without a traceback."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from commands import assert_one_line, run_command

import bert_jax
from bert_jax import command, environment, xla_flags
from bert_jax.__main__ import COMMANDS
from bert_jax.config import override, to_json
from bert_jax.errors import CheckpointError, ConfigError
from bert_jax.faults import processes

ROOT = Path(bert_jax.__file__).parents[1]


def write_experiment(file, experiment):
    """Writes an experiment file that returns exactly this experiment."""
    file.write_text(
        "import json\n\nfrom bert_jax.config import from_json\n"
        "from bert_jax.training.experiment import Experiment\n\n\ndef get_config() -> Experiment:\n"
        f"    return from_json(Experiment, json.loads({json.dumps(to_json(experiment))!r}))\n"
    )
    return file


@pytest.fixture(scope="module")
def file(experiment, tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment") / "mine.py", experiment)


# ---- As processes -----------------------------------------------------------------------------


def test_a_mistake_ends_in_one_line(file, tmp_path):
    """tests/faults/test_wrong_inputs.py has the table of mistakes, without new processes."""
    arguments = [f"--experiment={file}", f"--workdir={tmp_path}/run", "--set=model.num_heads=5"]
    result = run_command("pretrain", *arguments, cwd=tmp_path)
    assert_one_line(result, "model.hidden_size is 32", "model.num_heads 5")
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_purpose_and_the_flags_of_the_command(tmp_path):
    result = run_command("pretrain", "--help", cwd=tmp_path)
    source = (ROOT / "bert_jax" / "pretrain.py").read_text(encoding="utf-8")
    purpose, _, flags_shown = result.stdout.partition("\nflags:")
    assert purpose.split() == ast.get_docstring(ast.parse(source)).split()
    assert flags_shown.startswith("\n\npython -m bert_jax.pretrain:\n")
    for flag in ("experiment", "set", "workdir"):
        assert f"--{flag}:" in flags_shown


def run_package(*arguments, **options):
    """Runs `python -m bert_jax`, as the installed program does."""
    return subprocess.run(
        [sys.executable, "-m", "bert_jax", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_the_program_lists_every_command_with_its_purpose():
    files = (ROOT / "bert_jax").glob("*.py")
    modules = {f.stem for f in files if "\n    command.run(" in f.read_text(encoding="utf-8")}
    assert set(COMMANDS) == modules | {"config", "new", "report", "verify"}
    result = run_package()
    *head, blank = result.stdout.splitlines()[:2]
    assert result.returncode == 0 and result.stderr == "" and blank == ""
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()[2:]]
    assert [name for name, _ in lines] == list(COMMANDS)
    assert all(purpose.endswith(".") or ":" in purpose for _, purpose in lines)
    assert run_package("--help").stdout == result.stdout


def test_the_program_runs_the_same_command():
    arguments = ["--experiment=experiments/quickstart.py", "--set=seed=5"]
    result = run_package("config", *arguments, cwd=ROOT)
    assert json.loads(result.stdout)["seed"] == 5 and result.returncode == 0


def test_an_unknown_command_is_refused_with_the_nearest_name(tmp_path):
    result = run_package("pretrian", "--dry_run", cwd=tmp_path)
    assert_one_line(result, "no command 'pretrian'; did you mean pretrain")


# ---- In process: the same functions without the start of a process -----------------------------


def test_assignments_apply_together_and_the_last_for_a_field_wins(file, experiment):
    with flagsaver.flagsaver():
        flags.FLAGS(
            ["pretrain", f"--experiment={file}", "--set", "seed=1", "--set=model.num_heads = 8"]
            + ["--set=seed=2"]
        )
        changed = command.experiment_from_flags()
    model = dataclasses.replace(experiment.model, num_heads=8)
    assert changed == dataclasses.replace(experiment, seed=2, model=model)


@pytest.mark.parametrize(
    "assignments, kept", [([], "threefry"), (["--set=model.dropout_bits=hash"], "hash")]
)
def test_a_begun_run_keeps_an_earlier_default_unless_a_flag_names_the_field(
    assignments, kept, file, experiment, capsys
):
    begun = override(experiment, {"model.dropout_bits": "threefry", "seed": "7"})
    with flagsaver.flagsaver():
        flags.FLAGS(["pretrain", f"--experiment={file}", *assignments])
        changed = command.experiment_from_flags(begun=[begun])
    assert changed == override(experiment, {"model.dropout_bits": kept})
    said = "model.dropout_bits stays 'threefry', its default when the run began\n"
    assert capsys.readouterr().err == (said if kept == "threefry" else "")


def test_a_second_process_in_a_directory_is_refused(tmp_path):
    with command.exclusive(tmp_path):
        with pytest.raises(CheckpointError, match="another process is at work"):
            with command.exclusive(tmp_path):
                pass
    with command.exclusive(tmp_path):  # a second process may enter after the first has left
        pass


@pytest.mark.parametrize("exists", [True, False])
def test_a_lock_that_is_a_link_is_refused(exists, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    if exists:
        (tmp_path / "victim").write_text("precious")
    with pytest.raises(CheckpointError, match=r"\.lock is a symbolic link; accepted: a file"):
        with command.exclusive(tmp_path / "run"):
            pass
    assert (tmp_path / "victim").exists() == exists
    assert not exists or (tmp_path / "victim").read_text() == "precious"


def test_a_pipe_as_lock_or_config_ends_in_a_line(tmp_path):
    os.mkfifo(tmp_path / ".lock")  # a directory of another user may hold both
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="cannot be written .No such device"):
        with command.exclusive(tmp_path):
            pass
    with pytest.raises(ConfigError, match="config.json cannot be read .it is a device or a pipe"):
        command.load(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "flag", [None, "evaluation.probe=mine.py", 'evaluation={"probe": "mine.py"}']
)
def test_a_probe_in_a_config_file_needs_a_flag(flag, experiment, tmp_path, capsys):
    """The probe is a Python file. Another flag, or a file of Python, may name it."""
    probed = override(experiment, {"evaluation.probe": "mine.py"})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(probed)))
    with flagsaver.flagsaver():
        flags.FLAGS(["pretrain", f"--experiment={file}", *([f"--set={flag}"] if flag else [])])
        found = command.experiment_from_flags()
    assert found == (probed if flag else experiment)
    said = f"{file}: evaluation.probe='mine.py' is left out, because it runs a file; to keep it, "
    assert capsys.readouterr().err == (
        "" if flag else f"{said}add --set evaluation.probe=mine.py\n"
    )
    python = write_experiment(tmp_path / "mine.py", probed)
    with flagsaver.flagsaver():
        flags.FLAGS(["pretrain", f"--experiment={python}"])
        assert command.experiment_from_flags() == probed


def test_a_process_that_waited_gets_the_lock(tmp_path, capsys):
    """The refused process removes the lock file while the waiting process has it open."""
    directory, entered, done = tmp_path / "run", threading.Event(), threading.Event()

    def wait():
        with command.exclusive(directory, wait=True):
            entered.set()
            done.wait(30)

    second = threading.Thread(target=wait)
    with pytest.raises(ConfigError), command.exclusive(directory):
        second.start()
        while "waiting for it" not in capsys.readouterr().err:
            time.sleep(0.01)
        raise ConfigError("refused")
    assert entered.wait(30)
    with pytest.raises(CheckpointError), command.exclusive(directory):
        pass
    done.set()
    second.join()


@pytest.mark.parametrize(
    ("tasks", "devices"),
    [("1", [0, 1, 2, 3]), ("1(x2)", [0, 1, 2, 3]), ("4(x2)", None), ("1,2", None), (None, None)],
)
def test_a_slurm_task_alone_on_its_node_takes_all_of_its_gpus(tasks, devices, monkeypatch):
    """Without our setting, jax gives a task one GPU."""
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    if tasks is None:
        monkeypatch.delenv("SLURM_STEP_TASKS_PER_NODE", raising=False)
    else:
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    assert processes.slurm_devices() == devices


def test_flags_of_the_user_replace_ours(monkeypatch):
    width = "--xla_cpu_prefer_vector_width"
    given = {"XLA_FLAGS": f"--xla_dump_to=a  {width}=256", "HOME": "home"}
    monkeypatch.setattr(os, "environ", given)
    xla_flags.set_variables()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=a {width}=256"
    assert os.environ["LIBTPU_INIT_ARGS"] == xla_flags.merge("LIBTPU_INIT_ARGS", "")
    xla_flags.set_variables()  # a second call changes nothing
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=a {width}=256"


def test_a_file_of_flags_is_not_hidden_by_ours():
    """XLA reads the file only if the variable begins with its path."""
    assert xla_flags.merge("XLA_FLAGS", "flags.txt") == "flags.txt"


START = """
import os, sys, warnings
import jax
if sys.argv[1] == "late":
    jax.devices()
from bert_jax import load_run
from bert_jax.errors import CheckpointError
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        try:
            load_run("missing")
        except CheckpointError:
            pass
print(os.environ.get("XLA_FLAGS", ""), jax.config.jax_compilation_cache_dir)
print([str(one.message) for one in said if "jax started" in str(one.message)])
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_load_run_sets_up_xla_or_warns_once_that_jax_has_started(when, tmp_path):
    clean = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}
    env = {name: value for name, value in os.environ.items() if name not in clean}
    env |= {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", START, when]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    flags, said = result.stdout.splitlines()
    assert flags.endswith(f"{tmp_path}/bert_jax/xla")
    width = "--xla_cpu_prefer_vector_width=512"
    assert (width in flags) == (when == "early")
    assert said.count("jax started") == said.count(f"XLA_FLAGS={width}") == (when == "late")


def test_a_flag_is_replaced_by_its_whole_name():
    longer = "--xla_cpu_prefer_vector_width_of_nothing=1"
    merged = xla_flags.merge("XLA_FLAGS", longer).split()
    assert merged[-1] == longer and "--xla_cpu_prefer_vector_width=512" in merged
    memory = "xla_tpu_scoped_vmem_limit_kib"
    merged = xla_flags.merge("LIBTPU_INIT_ARGS", f"-{memory}=1")
    assert merged.count(memory) == 1 and "windowed_einsum" in merged


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "home/.cache"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache"),
        ({"XDG_CACHE_HOME": "scratch"}, "scratch"),
    ],
)
def test_the_cache_is_in_the_home_directory_or_where_the_user_says(given, expected, monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": "home", **given})
    environment.configure_jax()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == f"{expected}/bert_jax/xla"
