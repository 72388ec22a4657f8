"""Paths in gs://, on an emulator of Google Cloud Storage on loopback."""

import json
import os
import sys
import threading
import time
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import gcs_emulator
import numpy as np
import pytest
from absl.testing import flagsaver
from commands import ROOT, free_port, run_command, start_command
from same_run import assert_same_bits

from bert_jax import command
from bert_jax.config import from_json, override, paths, to_json
from bert_jax.config.paths import open_path
from bert_jax.data.passport import check_files, check_outside_data, load_passport, load_token_counts
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.records import open_split
from bert_jax.data.remote import local_file, worked_on_locally
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import BertJaxError, CheckpointError, ConfigError, DataError
from bert_jax.faults import damage, holder
from bert_jax.faults.run_files import RowsFile, read_rows
from bert_jax.files import read_json, sha256_of_file, write_json
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.training.config import TrainingConfig
from bert_jax.training.experiment import Experiment
from bert_jax.training.initial import fingerprint_params, flatten_params
from bert_jax.training.manager import CheckpointManager, reading, saving
from bert_jax.training.train import train
from bert_jax.training.writer import RunWriter
from bert_jax.verify.checks import verify


@pytest.fixture
def place(bucket, request):
    """A path in gs:// for one test."""
    return open_path(f"{bucket}/{request.node.name.replace('[', '-').strip(']')}", name="place")


def names_below(place):
    return [str(file.relative_to(place)) for file in paths.files_below(place)]


# ---- Paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("s3://bucket/run", "s3:/bucket/run", "hdfs://host/run", "file:///tmp/run", "az://a/b"),
        *(
            "gs://",
            "gs://bucket",
            "gs:///run",
            "gs://bucket/../run",
            "gs://bucket/a*",
            "gs://b//c",
            "gs://b/c",
            "gs://Bucket/c",
        ),
    ],
)
def test_another_scheme_is_refused(path):
    with pytest.raises(ConfigError, match="run is '.*'; accepted: a local path or gs://BUCKET/PA"):
        open_path(path, name="run")


def test_where_files_must_be_local_gs_is_refused():
    with pytest.raises(ConfigError, match="^--workdir is 'gs://a/b'; accepted: a local path$"):
        open_path("gs://a/b", name="--workdir", local=True)


def test_a_config_with_paths_of_gs_opens_without_gcsfs(experiment, monkeypatch):
    """A run that read its data from a bucket opens on a laptop."""
    fields = {"data.directory": "gs://bucket/data", "training.init_from": "gs://bucket/run"}
    config = to_json(override(experiment, fields))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert from_json(Experiment, config).data.directory == "gs://bucket/data"


def test_gs_needs_gcsfs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gcsfs is not installed; accepted: .*'\.\[gcs\]'"):
        open_path("gs://bucket/run", name="run")


def test_a_path_of_gs_survives_pathlib_and_a_second_call(bucket):
    for given in ("gs://a-b/run/", Path("gs://a-b/run"), open_path("gs://a-b/run", name="run")):
        assert str(open_path(given, name="run")) == "gs://a-b/run"
    assert open_path("runs/mine", name="run") == Path("runs/mine")


def test_json_files_and_hashes_are_those_of_a_local_file(place, tmp_path):
    for directory in (place / "run", tmp_path):
        write_json(directory / "a.json", {"a": 1})
        assert read_json(directory / "a.json") == {"a": 1}
    assert sha256_of_file(place / "run" / "a.json") == sha256_of_file(tmp_path / "a.json")
    with pytest.raises(DataError, match="b.json cannot be read .FileNotFoundError.; accepted: a f"):
        read_json(place / "b.json")


def test_a_workdir_in_prepared_data_is_refused(place):
    write_json(place / "data" / "passport.json", {})
    with pytest.raises(CheckpointError, match="lies in the prepared data of gs://.*/data; accep"):
        check_outside_data(place / "data" / "runs" / "one")
    check_outside_data(place / "runs")


# ---- Rows and TensorBoard ------------------------------------------------------------------------


def test_rows_are_written_in_parts_and_joined(place):
    file = place / "metrics.jsonl"
    rows = RowsFile(file, 0, None)
    rows.append(b'{"step": 1}\n')
    rows.append(b'{"step": 2}\n')
    assert names_below(place) == [
        "metrics.jsonl",
        "metrics.jsonl.parts/00000000000000000000",
        "metrics.jsonl.parts/00000000000000000012",
    ]
    assert list(read_rows(file).rows) == [1, 2]
    written = rows.synchronize()
    assert names_below(place) == ["metrics.jsonl"]
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'

    # A process that was killed after it had joined the parts leaves the parts.
    (paths.parts_of(file) / f"{12:020}").write_text('{"step": 2}\n')
    rows.append(b'{"step": 3}\n')
    assert list(read_rows(file).rows) == [1, 2, 3] and not read_rows(file).damaged

    again = RowsFile(file, 2, written)
    assert again.synchronize() == written and list(read_rows(file).rows) == [1, 2]


def test_tensorboard_is_copied_at_each_checkpoint(place):
    row = {"train/loss": 1.0, "train/mlm_loss": 1.0, "train/mlm_accuracy": 0.5}
    with RunWriter(place, TrainingConfig(steps=4), 0) as writer:
        writer.write(1, row)
        assert not any("tfevents" in name for name in names_below(place))
        writer.synchronize()
        (events,) = (place / "tensorboard").glob("*")
        size = len(events.read_bytes())
        writer.write(2, row)
        writer.synchronize()
        assert len(events.read_bytes()) > size
    with RunWriter(place, TrainingConfig(steps=4), 2) as writer:
        writer.synchronize()
    first, second = sorted((place / "tensorboard").glob("*"))
    assert first == events and second.name > first.name


# ---- The holder of a directory -------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Shortens the times of the holder's record."""
    monkeypatch.setattr(holder, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(holder, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(holder, "SETTLING_SECONDS", 0.1)


def of_another_machine(place):
    return json.loads((place / holder.RECORD_FILE).read_text()) | {"machine": "far away"}


def test_a_directory_has_one_holder(place, quick, monkeypatch):
    monkeypatch.setattr(holder.socket, "gethostname", lambda: threading.current_thread().name)
    refused = []

    def come():
        try:
            with command.exclusive(place):
                pass
        except CheckpointError as error:
            refused.append(str(error))

    with command.exclusive(place):
        second = threading.Thread(target=come, name="far")
        second.start()
        second.join()
    assert len(refused) == 1 and "is at work in gs://" in refused[0]
    assert "accepted: another --workdir" in refused[0]
    assert names_below(place) == []  # the record is deleted at the end
    come()
    assert len(refused) == 1


def test_a_record_may_be_deleted_while_it_is_read(tmp_path):
    kept, file = tmp_path / "kept", tmp_path / holder.RECORD_FILE
    kept.write_text('{"id": "x"}')

    def come_and_go():
        for _ in range(2000):
            os.link(kept, file)
            file.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    while other.is_alive():
        assert holder._read(file) in ({}, {"id": "x"})


def test_a_damaged_record_is_named(place, quick):
    (place / holder.RECORD_FILE).write_text("{")
    with pytest.raises(DataError, match=r"\.holder\.json:1 is not JSON"), command.exclusive(place):
        pass


def test_a_record_that_cannot_be_deleted_hides_no_error(place, quick, capsys):
    with pytest.raises(ZeroDivisionError), command.exclusive(place):
        (place / holder.RECORD_FILE).write_text("{")
        1 / 0  # noqa: B018
    assert "cannot be deleted" in capsys.readouterr().err


def test_a_directory_of_a_lost_process_is_free_after_a_time(place, quick, capsys):
    with command.exclusive(place):
        lost = of_another_machine(place)
    write_json(place / holder.RECORD_FILE, lost)
    start = time.monotonic()
    with command.exclusive(place):
        assert time.monotonic() - start > holder.LOST_SECONDS
    assert "on far holds gs://" in capsys.readouterr().err


@pytest.mark.parametrize("boot_id", ["boot_id", "missing"])  # macOS has no /proc
def test_a_directory_of_an_ended_process_of_this_machine_is_free_at_once(
    boot_id, place, quick, monkeypatch, capsys
):
    monkeypatch.setattr(holder, "BOOT_ID", Path(f"/proc/sys/kernel/random/{boot_id}"))
    with command.exclusive(place):
        ended = json.loads((place / holder.RECORD_FILE).read_text()) | {"process": 2**22 + 1}
    write_json(place / holder.RECORD_FILE, ended)
    with command.exclusive(place):
        pass
    assert "waiting" not in capsys.readouterr().err
    write_json(place / holder.RECORD_FILE, ended | {"process": os.getppid()})
    with command.exclusive(place):
        pass
    assert f"process {os.getppid()} on " in capsys.readouterr().err  # waits for it


def test_a_holder_that_was_replaced_ends(place, quick, monkeypatch, capsys):
    ended = threading.Event()
    monkeypatch.setattr(holder.os, "_exit", lambda status: ended.set() if status == 2 else None)
    with command.exclusive(place):
        write_json(place / holder.RECORD_FILE, of_another_machine(place) | {"id": "x"})
        assert ended.wait(10)
    assert "on far has taken over gs://" in capsys.readouterr().err


def raise_error(code):
    from gcsfs.retry import HttpError

    raise HttpError({"code": code, "message": "said the server"})


def lose_connection(_):
    from aiohttp import ClientOSError

    raise ClientOSError(111, "connection refused")


def find_no_credentials(_):
    from google.auth.exceptions import DefaultCredentialsError

    raise DefaultCredentialsError("none were found")


def lose_metadata_server(_):
    """Raises what gcsfs does if the server that renews the credentials does not answer."""
    from gcsfs.retry import HttpError
    from google.auth.exceptions import RefreshError, TransportError

    try:
        try:
            raise TransportError("no answer")
        except TransportError as error:
            raise RefreshError(error) from error
    except RefreshError as error:
        raise HttpError({"code": 401, "message": "Invalid Credentials"}) from error


def read_without_connection(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(place), "read_bytes", lose_connection)
        damage.standing(place)  # the step does not count as a step that was not evaluated


def find_step(place):
    damage.newest_whole_step(place, on_damaged="previous")  # it does not count as damaged


def find_step_without_connection(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(place), "read_bytes", lose_connection)
        find_step(place)


def typed(main):
    """A notebook prints no message of a command: all errors have a type of bert_jax."""

    def call(place):
        try:
            main(place)
        except Exception as error:
            assert isinstance(error, BertJaxError), error
            raise

    return call


load = typed(lambda place: load_run(str(place)))


def opened(place):
    """Returns a run in `place` whose parameters are in memory."""
    run = load_run(ROOT / "tests" / "goldens" / "tiny_bert")
    return replace(run, path=place, config=cast(Experiment, object()))


def load_without_connection(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(place), "exists", lose_connection)
        load(place)


def hold(place):
    with command.exclusive(place):
        pass


def hold_without(lose):
    def hold_without_it(place):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(holder, "write_json", lambda *_: lose(place))
            hold(place)

    return hold_without_it


def save(said):
    def save_a_checkpoint(place):
        with saving(cast(CheckpointManager, SimpleNamespace(directory=place))):
            raise ValueError(f"{said}: said TensorStore")

    return save_a_checkpoint


def read_step(raise_it):
    def read_a_checkpoint(place):
        with reading(cast(CheckpointManager, SimpleNamespace(directory=place)), 6):
            raise_it(place)

    return read_a_checkpoint


def say(code):
    def raise_it(_):
        raise ValueError(f"{code}: said TensorStore")

    return raise_it


@pytest.fixture
def ended(place, monkeypatch, capsys):
    """Returns a function that runs a function as a command, with a run in `place`.

    The function returns status and stderr.
    """
    write_json(place / "config.json", {})
    (place / "checkpoints" / "6" / paths.COMMITTED).write_text("")
    monkeypatch.setattr(sys, "argv", ["command"])

    def run(main):
        with pytest.raises(SystemExit) as error, flagsaver.flagsaver():
            command.run(lambda: main(place))
        return error.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("main", "status", "said"),
    [
        (lambda _: raise_error(503), 75, "gs:// does not answer (HttpError: "),
        (lambda _: raise_error(400), 2, "gs:// cannot be read or written (HttpError: "),
        *(
            (read, 75, "gs:// does not answer (ClientOSError: [Errno 111")
            for read in (
                lose_connection,
                read_without_connection,
                find_step_without_connection,
                load_without_connection,
                hold_without(lose_connection),
            )
        ),
        (lose_metadata_server, 75, "gs:// does not answer (TransportError: no answer"),
        (find_no_credentials, 2, "written (DefaultCredentialsError: none were found); accepted: a"),
        (hold_without(find_no_credentials), 2, "a bucket that exists, and credentials to write"),
        (save("UNAVAILABLE"), 75, "a checkpoint cannot be written (ValueError: UNAVAILABLE"),
        (save("PERMISSION_DENIED"), 2, "accepted: application default credentials that may write"),
        (read_step(lose_connection), 75, "gs:// does not answer (ClientOSError: [Errno 111"),
        (read_step(say("UNAVAILABLE")), 75, "said TensorStore); accepted: the same command or"),
        (read_step(say("PERMISSION_DENIED")), 2, "default credentials that may read there"),
        (read_step(say("NOT_FOUND")), 2, "accepted: a whole checkpoint; delete this directory"),
    ],
    ids=(
        "503 400 connection standing newest load hold metadata none hold-none save denied read "
        "unavailable read-denied missing"
    ).split(),
)
def test_an_outage_of_gs_ends_with_the_status_of_a_signal_and_another_error_does_not(
    main, status, said, ended
):
    found = ended(main)
    assert found[0] == status and said in found[1]


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN])
@pytest.mark.parametrize(
    "main",
    [
        find_step,
        hold,
        lambda place: damage.standing(place / "checkpoints" / "6"),
        load,
        typed(lambda place: opened(place).metrics()),
        typed(lambda place: opened(place).plot_curves()),
        typed(lambda place: opened(place).evaluate(place)),
        lambda place: load_passport(str(place)),
        lambda place: local_file(str(place), "a", sha256="0" * 64),
        lambda place: RowsFile(place / "metrics.jsonl", 0, None).append(b"{}"),
    ],
    ids="newest hold standing load_run metrics curves evaluate passport shard rows".split(),
)
def test_refused_credentials_end_in_one_line_and_nothing_is_moved(main, status, place, ended):
    before = names_below(place)
    with gcs_emulator.answering(status):
        code, said = ended(main)
    assert code == 2 and said.count("\n") == 1 and "accepted: a bucket that exists, and c" in said
    assert names_below(place) == before


def test_a_bucket_that_does_not_exist_is_refused_in_one_line(bucket):
    with (
        pytest.raises(ConfigError, match="--workdir=gs://nobody/run cannot be written .*; accept"),
        command.exclusive(open_path("gs://nobody/run", name="run")),
    ):
        pass


# ---- Prepared data -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remote_data(bucket, data_config):
    """The prepared data of `data_config`, uploaded."""
    for file in Path(data_config.directory).iterdir():
        if file.is_file():
            open_path(f"{bucket}/data/{file.name}", name="file").write_bytes(file.read_bytes())
    return replace(data_config, directory=f"{bucket}/data")


def test_data_in_gs_are_those_of_the_local_directory(remote_data, data_config):
    remote, local = remote_data.directory, data_config.directory
    passport = load_passport(remote)
    assert passport == load_passport(local)
    assert load_tokenizer(remote).to_json() == load_tokenizer(local).to_json()
    assert np.array_equal(load_token_counts(remote), load_token_counts(local))
    check_files(passport, remote, splits=("train", "eval"))
    sources = [open_split(one, passport, split="train") for one in (remote, local)]
    assert [sources[0][i] for i in range(20)] == [sources[1][i] for i in range(20)]


def test_a_shard_is_downloaded_once_for_each_hash(remote_data, monkeypatch):
    shard = load_passport(remote_data.directory)["splits"]["eval"]["shards"][0]
    copy = local_file(remote_data.directory, shard["file"], sha256=shard["sha256"])
    assert copy == paths.cache_directory() / "data" / shard["sha256"] / shard["file"]
    monkeypatch.setattr("bert_jax.data.remote.filesystem", None)
    assert local_file(remote_data.directory, shard["file"], sha256=shard["sha256"]) == copy


def test_a_damaged_copy_is_downloaded_again(remote_data):
    passport = load_passport(remote_data.directory)
    shard = passport["splits"]["eval"]["shards"][0]
    copy = local_file(remote_data.directory, shard["file"], sha256=shard["sha256"])
    copy.write_bytes(b"damaged")
    check_files(passport, remote_data.directory, splits=("eval",))
    assert sha256_of_file(copy) == shard["sha256"]


def test_a_damaged_or_missing_file_of_gs_is_refused(place):
    (place / "a").write_bytes(b"damaged")
    with pytest.raises(DataError, match="gs://.*/a has SHA-256 .*; passport.json names 0000"):
        local_file(str(place), "a", sha256="0" * 64)
    with pytest.raises(DataError, match="gs://.*/b is missing; accepted: every file that the pas"):
        local_file(str(place), "b", sha256="0" * 64)
    assert not list((paths.cache_directory() / "data" / ("0" * 64)).iterdir())


def test_data_are_prepared_locally_and_uploaded_with_the_passport_last(
    place, data_config, monkeypatch
):
    uploaded, gcs = [], paths.filesystem()

    class Recording:
        def put_file(self, source, target):
            uploaded.append(Path(source).name)
            gcs.put_file(source, target)

        def __getattr__(self, name):
            return getattr(gcs, name)

    monkeypatch.setattr("bert_jax.data.remote.filesystem", Recording)
    tokenizer = load_tokenizer(data_config.directory)
    for _ in range(2):
        with worked_on_locally(str(place), last="passport.json") as local:
            prepare_data(
                replace(data_config, directory=local), tokenizer=tokenizer, engine=Engine()
            )
        wanted = {
            file.name: file.read_bytes()
            for file in Path(data_config.directory).iterdir()
            if file.is_file() and file.name != ".lock"
        }
        assert {file.name: file.read_bytes() for file in place.iterdir()} == wanted
        assert uploaded[-1] == "passport.json" and len(uploaded) == len(wanted)  # once in all


def test_data_of_another_machine_are_not_overwritten_by_older_local_files(place):
    for content in ("first", "second"):
        with worked_on_locally(str(place), last="passport.json") as local:
            found = sorted((file.name, file.read_text()) for file in Path(local).iterdir())
            (Path(local) / "shard").write_text(content)
            (Path(local) / "passport.json").write_text(content)
    assert found == [("passport.json", "first"), ("shard", "first")]
    for name in ("shard", "passport.json"):
        (place / name).write_text("of another machine")
    with worked_on_locally(str(place), last="passport.json") as local:
        assert {file.read_text() for file in Path(local).iterdir()} == {"of another machine"}
    assert (place / "shard").read_text() == "of another machine"


def test_prepare_data_itself_writes_a_local_directory_only(remote_data):
    tokenizer = load_tokenizer(remote_data.directory)
    with pytest.raises(ConfigError, match="data.directory is 'gs://.*'; accepted: a local path$"):
        prepare_data(remote_data, tokenizer=tokenizer, engine=Engine())


# ---- A run ---------------------------------------------------------------------------------------


QUICK_START = f"--experiment={ROOT}/experiments/quickstart.py"

SMALL = {
    **{"model.vocab_size": 500, "data.held_out_fraction": 0.1, "evaluation.batch_size": 16},
    **{"optimizer.warmup_steps": 5, "training.steps": 40, "training.log_every": 5},
    **{"training.eval_every": 20, "training.checkpoint_every": 10},
}
"""Changes of the quick start for a few texts."""


class Compared(NamedTuple):
    """A run of the quick start in gs:// that was killed, and the same run on local files."""

    remote: Path
    local: Path
    changes: list[str]
    """Flags of both runs, with the local data."""
    data: str
    """The data in gs://."""


def start_quick_start(*words, processes=1, devices=1):
    """Starts the command in each of several processes."""
    together = [()]
    if processes > 1:
        several = f"--coordinator=127.0.0.1:{free_port()}", f"--process_count={processes}"
        together = [(*several, f"--process_index={index}") for index in range(processes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={devices}")
        if processes > 1:  # process 0 would not compile, and wait for the others for 30 s only
            patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
        return [start_command("pretrain", QUICK_START, *words, *flags) for flags in together]


def wait_for_checkpoint(processes, workdir, step):
    while step not in damage.saved_steps(workdir):
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.1)


def compare(bucket, directory, changes, *, corpus, processes):
    """Prepares and trains the quick start in gs:// and locally. Returns a `Compared`.

    All processes of the run in gs:// are killed with -9 after a checkpoint. When they are started
    again, gs:// is away for three seconds.
    """
    remote = open_path(f"{bucket}/{directory.name}/run", name="workdir")
    data, local_data = f"{bucket}/{directory.name}/data", f"{directory}/data"
    flags = [f"--set={name}={value}" for name, value in changes.items()]
    for output in (data, local_data):
        prepared = run_command("prepare", QUICK_START, f"--output={output}", *corpus, *flags)
        assert prepared.returncode == 0, prepared.stderr
    words = (f"--workdir={remote}", f"--set=data.directory={data}", *flags)
    running = start_quick_start(*words, processes=processes)
    flags.append(f"--set=data.directory={local_data}")
    wait_for_checkpoint(running, remote, changes["training.checkpoint_every"])
    for process in running:
        process.kill()
        process.communicate()
    assert (remote / ".holder.json").exists()
    running = start_quick_start(*words, processes=processes)
    (local,) = start_quick_start(f"--workdir={directory}/run", *flags, devices=processes)
    wait_for_checkpoint(running, remote, 2 * changes["training.checkpoint_every"])
    with gcs_emulator.answering(HTTPStatus.SERVICE_UNAVAILABLE):
        time.sleep(3)
    said = [process.communicate(timeout=1500)[1] for process in (*running, local)]
    assert [one.returncode for one in (*running, local)] == [0] * (processes + 1), said
    assert "going on from step" in said[0] and not (remote / ".holder.json").exists()
    return Compared(remote, directory / "run", flags, data)


def assert_same_numbers(compared):
    runs = [load_run(path) for path in (str(compared.remote), compared.local)]
    assert_same_bits(*(flatten_params(one.params) for one in runs))
    rows = [
        [{k: v for k, v in row.items() if "perf/" not in k} for row in one.metrics()]
        for one in runs
    ]
    assert rows[0] == rows[1] and len(rows[0]) >= 8
    assert names_below(compared.remote / "tensorboard")
    assert not names_below(paths.parts_of(compared.remote / "metrics.jsonl"))


@pytest.fixture(scope="module")
def quick_start(bucket, data_config, tmp_path_factory):
    """A quick start on a few texts."""
    corpus = (f"--corpus={data_config.corpus}",)
    return compare(bucket, tmp_path_factory.mktemp("one"), SMALL, corpus=corpus, processes=1)


@pytest.mark.slow
def test_a_quick_start_in_gs_that_is_killed_ends_with_the_parameters_of_a_local_one(quick_start):
    """Data, workdir and `load_run` use gs://."""
    assert_same_numbers(quick_start)


@pytest.mark.slow
def test_a_run_in_gs_is_used_like_a_local_one(quick_start, tmp_path):
    """Each command with gs:// gives what the local run gives, as a command or a function."""
    remote, local = quick_start.remote, load_run(quick_start.local)
    (tmp_path / "texts.txt").write_text("The people of the [MASK] States\n")
    rows = [f"The senate is {word}\t{word}\n" for word in ("good", "bad") * 8]
    (tmp_path / "task.tsv").write_text("text\tlabel\n" + "".join(rows))
    task = {"family": "classification", "max_length": 8, "representation": "mean"}
    task |= dict.fromkeys(("train", "dev"), f"tsv:{tmp_path}/task.tsv")
    fine_tuning = from_json(FineTuningConfig, {"format_version": 1, "task": task})
    (tmp_path / "task.json").write_text(json.dumps(to_json(fine_tuning)))
    steps = ("--set=training.steps=6", "--set=training.eval_every=6")
    with (tmp_path / "texts.txt").open() as texts:
        running = [
            start_command("predict", f"--run={remote}", "--task=fill_mask", stdin=texts),
            start_command("convert", f"--source={remote}", f"--output={tmp_path}/converted"),
            start_command(
                *("finetune", f"--experiment={tmp_path}/task.json", f"--checkpoint={remote}"),
                *(f"--workdir={tmp_path}/task", "--set=training.epochs=1"),
            ),
            start_command(
                *("pretrain", QUICK_START, f"--workdir={tmp_path}/later", *quick_start.changes),
                *(*steps, f"--set=training.init_from={remote}"),
            ),
            start_command("evaluate", f"--run={remote}", f"--data={quick_start.data}", "--json"),
        ]
        verified = list(verify(remote, rows=0))
        assert len(verified) > 5 and all(check.agrees for check in verified), verified
        said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), said

    (filled,) = local.fill_mask("The people of the [MASK] States")
    assert json.loads(said[0][0]) == {"fillings": [[one._asdict() for one in filled]]}
    (tmp_path / "wanted").mkdir()
    save_run(local, tmp_path / "wanted", to="huggingface")
    converted = [tmp_path / name / "model.safetensors" for name in ("converted", "wanted")]
    assert converted[0].read_bytes() == converted[1].read_bytes()
    wanted = fingerprint_params(local.params)
    assert read_json(tmp_path / "task" / "result.json")["checkpoint_sha256"] == wanted
    initial = read_json(tmp_path / "later" / "initial.json")
    assert (initial["source"], initial["sha256"]) == (str(remote), wanted)
    evaluated, trained = json.loads(said[4][0]), read_json(quick_start.local / "result.json")
    assert evaluated["mlm_loss"] == pytest.approx(trained["mlm_loss"], abs=1e-5)


@pytest.mark.long
def test_the_quick_start_in_gs_at_its_full_size_is_killed_and_ends_like_a_local_one(
    bucket, tmp_path
):
    """The experiment file as it is, on the whole corpus."""
    same = {"training.checkpoint_every": 750}
    assert_same_numbers(compare(bucket, tmp_path, same, corpus=(), processes=1))


@pytest.mark.long
def test_two_processes_with_a_workdir_in_gs_are_killed_and_end_like_one_process(
    bucket, data_config, tmp_path
):
    """Two processes of one device are compared with one process of two devices."""
    corpus = (f"--corpus={data_config.corpus}",)
    assert_same_numbers(compare(bucket, tmp_path, SMALL, corpus=corpus, processes=2))


@pytest.mark.slow
def test_a_damaged_checkpoint_in_gs_is_moved_aside(bucket, experiment, tmp_path, capsys):
    workdir = open_path(f"{bucket}/runs/damaged", name="workdir")
    train(experiment, workdir)
    assert damage.saved_steps(workdir) == [12, 6]
    (workdir / "result.json").unlink()
    changed = paths.files_below(workdir / "checkpoints" / "12" / "state")[-1]
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="gs://.*/checkpoints/12 is damaged .state/.* has ch"):
        load_run(str(workdir))
    train(experiment, workdir)
    assert "the damaged checkpoint 12 is now gs://" in capsys.readouterr().err
    assert names_below(workdir / "damaged" / "12") and damage.saved_steps(workdir) == [12, 6]
    load_run(str(workdir))
