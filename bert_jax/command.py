"""Code that all commands share: flags that choose an experiment, errors and locks."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import IO, Any, Literal

from absl import app, flags, logging

from bert_jax import config
from bert_jax.config.paths import describe_failure, is_outage, is_remote, open_path
from bert_jax.data.passport import check_outside_data
from bert_jax.errors import (
    BertJaxError,
    CheckpointError,
    ConfigError,
    MissingDataError,
    OutOfMemoryError,
    UnknownCodeError,
    require,
)
from bert_jax.faults import signals
from bert_jax.faults.holder import holding
from bert_jax.faults.memory import explain_lack_of_memory
from bert_jax.files import naming, open_to_append, read_text

_EXPERIMENT = flags.DEFINE_string(
    "experiment",
    None,
    "Experiment file, with a variant after a colon if it has several: experiments/quickstart.py, "
    "experiments/bert.py:base, a file of your own, or the config.json of a run.",
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Replaces one field of the experiment. May be repeated, e.g. "
    "--set optimizer.learning_rate=2e-4 --set model.num_layers=6.",
)
_CODE = flags.DEFINE_multi_string(
    "code",
    [],
    "A file that defines classes of the experiment, such as its model. It is run, so trust it. A "
    "config.json, or a run that was made with this file, needs it; --experiment=FILE.py does not.",
)


def experiment_from_flags(root: Any = None, *, begun: Sequence[Any] = ()) -> Any:
    """Returns the experiment that the flags describe, an instance of `root` (None: `Experiment`).

    `begun` has the experiments of the runs that the command continues. In earlier config formats,
    some fields had another default (`EARLIER_DEFAULTS`). If a field has its earlier default in one
    of these runs, the returned experiment keeps this value, unless `--set` names the field.
    """
    spec, overrides = required("experiment", "FILE.py or FILE.py:VARIANT"), {}
    for assignment in _SET.value:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: accepted: --set path.to.field=value")
        overrides[path.strip()] = value.strip()
    loaded = _without_probe(load(spec, root), spec, named=config.leaves(overrides))
    experiment = config.override(loaded, overrides)
    values = [config.flatten(run) for run in (experiment, *begun)]
    earlier = {
        path: default
        for path, default in config.EARLIER_DEFAULTS.items()
        if path not in overrides and default in [run.get(path) for run in values[1:]]
    }
    for path, default in earlier.items():
        if values[0][path] != default:
            print(f"{path} stays {default!r}, its default when the run began", file=sys.stderr)
    return config.override(experiment, earlier)


def _without_probe(experiment: Any, spec: str, *, named: Container[str]) -> Any:
    """Returns the experiment without the probe of a config.json, unless a flag names the probe.

    A probe is a Python file, which would run. `named` has the paths of the fields that flags set.
    """
    field = "evaluation.probe"
    probe = config.flatten(experiment).get(field)
    if not probe or field in named or not spec.endswith(".json"):
        return experiment
    print(
        f"{spec}: {field}={probe!r} is left out, because it runs a file; to keep it, "
        f"add --set {quote(f'{field}={probe}')}",
        file=sys.stderr,
    )
    return config.override(experiment, {field: ""})


def load(spec: str, root: Any = None) -> Any:
    """Returns the experiment of an experiment file or of a run's config.json.

    Raises:
      ConfigError: the experiment is not valid, or it is not an instance of `root`.
    """
    from bert_jax.training.experiment import Experiment

    root = root or Experiment
    if not spec.endswith(".json"):
        found = config.load_experiment(spec)
        if not isinstance(found, root):
            raise ConfigError(f"{spec} returns {type(found).__name__}; accepted: {root.__name__}")
        return found
    file = open_path(spec, name="--experiment")
    text = read_text(file, error=ConfigError, advice=", the config.json of a run")
    try:
        return config.from_json(root, json.loads(text))
    except UnknownCodeError as error:
        raise UnknownCodeError(f"{spec}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{spec}: {error}; accepted: the config.json of a run") from error


@functools.cache
def run_code() -> None:
    """Runs the files that define classes: those of --code, and an experiment file."""
    specs = [*_CODE.value, *([_EXPERIMENT.value] if _EXPERIMENT.value else [])]
    for spec in specs:
        if spec in _CODE.value or not spec.endswith(".json"):
            config.load_module(spec)


def required(name: str, accepted: str = "a directory") -> Any:
    """Returns the value of a flag. Raises ConfigError if it is missing or empty."""
    value = flags.FLAGS[name].value
    require(value, f"--{name}", value, accepted)
    return value


def required_path(name: str, accepted: str = "a directory", *, local: bool = False) -> Path:
    """Returns the value of a flag as a path; see `required` and `config.paths.open_path`."""
    return open_path(required(name, accepted), name=f"--{name}", local=local)


STDOUT = Path("standard output")
"""Name of stdout in an error message."""

STEP_HELP = "Step of a checkpoint, or `best`: the lowest held-out loss. By default the last."


def step(given: str | None) -> int | Literal["best"] | None:
    """Returns the value of --step for `load_run`."""
    if given is None or given == "best":
        return given
    require(given.isdecimal(), "--step", given, "the step of a checkpoint, or best")
    return int(given)


def run(main: Callable[..., None], *, operands: bool = False, resumes: bool = False) -> None:
    """Runs a command. After a mistake of the user it prints one line and exits with status 2.

    If `operands` is True, the arguments that are not flags are passed to `main`. `resumes` says
    whether the same command goes on after a signal.
    """

    def guarded(arguments: list[str]) -> None:
        signals.raise_on_signals()
        try:
            if len(arguments) > 1 and not operands:
                raise ConfigError(
                    f"unexpected argument {arguments[1]!r}{_meant(arguments[1])}; accepted: the "
                    "flags that --help shows"
                )
            if _CODE.value:
                run_code()
            with explain_lack_of_memory():
                main(*arguments[1:])
            with naming(STDOUT):
                sys.stdout.flush()
        except Exception as error:
            if not (isinstance(error, (BertJaxError, OSError)) or describe_failure(error)):
                if heartbeat := _heartbeat():
                    heartbeat.wait_for_cause(error)
                    traceback.print_exc()
                    heartbeat.leave(1, repr(error))
                raise
            status = error.status if isinstance(error, BertJaxError) else 2
            status = signals.STATUS if is_outage(error) else status
            said = _line_about(error)
            _close_output()
            _fail(said)
            if heartbeat := _heartbeat():
                heartbeat.leave(status, said)
            sys.exit(status)
        except KeyboardInterrupt as error:
            # Suspended generators end now: Python would wait for the tasks of a pool at its end.
            traceback.clear_frames(error.__traceback__)
            more = "; the same command goes on from what was saved" if resumes else ""
            print((str(error) or "interrupted") + more, file=sys.stderr)
            sys.exit(signals.STATUS)

    def parse(arguments: list[str]) -> list[str]:
        shown = io.StringIO()
        try:
            with contextlib.redirect_stdout(shown):
                rest = flags.FLAGS(arguments)
        except flags.Error as error:
            words = "the flags and values that --help shows"
            if isinstance(error, flags.UnrecognizedFlagError) and "." in error.flagname:
                words = f"--set {error.flagname}=VALUE, in a command that has --experiment"
            sys.exit(_fail(f"{error}; accepted: {words}"))
        except SystemExit:  # absl ends --help with status 1, and shows the path of the module
            module = Path(sys.argv[0]).with_suffix("").as_posix().removesuffix("/__main__")
            name = f"python -m bert_jax.{module.rpartition('/')[2]}"
            print(shown.getvalue().replace(f"\n{sys.argv[0]}:\n", f"\n{name}:\n"), end="")
            sys.exit(0)
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # --verbosity=0 shows messages of libraries
        return rest

    app.run(guarded, flags_parser=parse)


@contextlib.contextmanager
def exclusive(directory: Path, *, wait: bool = False, flag: str = "--workdir") -> Iterator[int]:
    """Locks a directory, so that one process at a time works in it. Yields the lock's descriptor.

    A child process that inherits the descriptor keeps the lock after its parent ends. After a
    BertJaxError or an OSError, the lock file and the empty directories made here are removed. After
    an OutOfMemoryError, the directory is removed if it was made here and nothing is saved in it.

    A directory in gs:// has no lock; a record names the process that works in it.

    Raises:
      CheckpointError: another process holds the lock, and `wait` is False; or a workdir lies in
        prepared data.
      ConfigError: the directory cannot be made or written.
      OutOfMemoryError: memory is too small for the body of the `with` statement.
    """
    file = directory / ".lock"
    if flag == "--workdir" and not (directory / "config.json").exists():  # a run may continue
        check_outside_data(directory)
    if is_remote(directory):
        with holding(directory, flag=flag, heartbeat=_heartbeat), explain_lack_of_memory():
            yield -1
        return
    try:
        made = [path for path in (file, directory, *directory.parents) if not path.exists()]
        lock = _open_locked(file, wait=wait, flag=flag)
    except OSError as error:
        raise ConfigError(
            f"{flag}={directory} cannot be written ({error.strerror}); accepted: a directory that "
            "can be made or written"
        ) from error
    with lock:
        try:
            with explain_lack_of_memory():
                yield lock.fileno()
        except (BertJaxError, OSError) as error:
            saved = any(any(directory.glob(pattern)) for pattern in _SAVED)
            if isinstance(error, OutOfMemoryError) and directory in made and not saved:
                shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(OSError):  # a directory that is not empty stays
                for path in made:
                    if path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink(missing_ok=True)
            raise


_SAVED = ("checkpoints/[0-9]*", "*/result.json", "*-of-*.json")
"""Patterns of what is saved: checkpoints, results of seeds or of runs of a sweep, and shards."""


def _open_locked(file: Path, *, wait: bool, flag: str) -> IO:
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = open_to_append(file)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        busy = f"another process is at work in {file.parent}"
        if not wait:
            lock.close()
            raise CheckpointError(f"{busy}; accepted: another {flag}") from error
        print(f"{busy}; waiting for it", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            return lock
    lock.close()  # the process that held the lock has removed the file
    return _open_locked(file, wait=wait, flag=flag)


def _meant(argument: str) -> str:
    """Returns, in words, which flag an argument without its name was probably meant for."""
    flag = "--experiment=" if argument.endswith(".py") else "--set " if "=" in argument else ""
    known = {one.name for one in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
    return f"; did you mean {flag}{argument}" if flag and "experiment" in known else ""


def _prepare_command() -> str:
    """Returns the command that makes the data of the experiment that the flags describe."""
    fields = ("data.", "model.vocab_size", "phases", "training.steps")
    overrides = [f"--set {quote(one)}" for one in _SET.value if one.startswith(fields)]
    code = [f"--code={quote(file)}" for file in _CODE.value]
    experiment = f"--experiment={quote(_EXPERIMENT.value or 'FILE')}"
    return " ".join(["python -m bert_jax.prepare", experiment, *code, *overrides])


def _line_about(error: Exception) -> str:
    failure = describe_failure(error)
    if failure and (is_outage(error) or not isinstance(error, BertJaxError)):
        return failure
    if isinstance(error, MissingDataError):
        return f"{error}; make them with `{_prepare_command()}`"
    if isinstance(error, OSError) and error.filename:  # it cannot be read or written; a full disk
        where = f"{error.filename} cannot be read or written"
        return f"{where} ({error.strerror}); accepted: a path that can be"
    return str(error)


def _heartbeat() -> Any:
    """Returns the module `heartbeat`, which imports jax, if this is one of several processes."""
    if "jax" in sys.modules:
        from bert_jax.faults import heartbeat

        if heartbeat.is_one_of_several():
            return heartbeat
    return None


def _close_output() -> None:
    """Flushes stdout. If this fails, opens /dev/null as stdout: Python flushes again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception | str) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
