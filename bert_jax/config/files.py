"""Loads experiment files: Python files with a function `get_config` that returns a config."""

import contextlib
import dataclasses
import os
import sys
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bert_jax.config.bounds import nearest
from bert_jax.config.parts import Code, run_code
from bert_jax.config.stored import normalize
from bert_jax.errors import ConfigError


def load_experiment(spec: str | Path) -> Any:
    """Calls `get_config` of an experiment file, `FILE` or `FILE:VARIANT`, and returns its config.

    Raises:
      ConfigError: the file or the variant does not exist, or the file raises an exception.
    """
    file, variant = split_spec(str(spec))
    get_config = getattr(_import_file(file), "get_config", None)
    if not callable(get_config):
        raise ConfigError(
            f"{file} defines no get_config(); accepted: a file like experiments/quickstart.py"
        )
    with errors_of(file):
        named = typing.get_args(typing.get_type_hints(get_config).get("variant"))
    variants = [name for name in named if isinstance(name, str)]
    if variant and not variants:
        raise ConfigError(
            f"{file} names no variants, got {variant!r}; accepted: {file}, or an argument of "
            'get_config such as variant: Literal["base", "large"]'
        )
    if variant and variant not in variants:
        raise ConfigError(f"{file} has no variant {variant!r}; {nearest(variant, variants)}")
    with errors_of(file):
        config = get_config(variant) if variant else get_config()
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{file}: get_config() returns {config!r:.60}; accepted: an Experiment")
    return normalize(config)


def load_module(spec: str | Path) -> Any:
    """Returns the module of an experiment file, `FILE` or `FILE:VARIANT`.

    Raises:
      ConfigError: the file does not exist, or it raises an exception.
    """
    return _import_file(split_spec(str(spec))[0])


def split_spec(spec: str) -> tuple[Path, str]:
    """Returns the file and the variant of `FILE:VARIANT`; the variant is empty if there is none.

    Raises:
      ConfigError: the file does not exist.
    """
    spec = os.path.expanduser(spec)
    path = Path(spec)
    if path.is_file():
        return path, ""
    head, colon, variant = spec.rpartition(":")
    path = Path(head if colon else spec)
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        known = sorted(str(file) for file in folder.glob("*.py"))
        if (path / "config.json").is_file():  # a run
            raise ConfigError(f"{path} is a directory; did you mean {path / 'config.json'}")
        name = "" if path.is_dir() else str(path)  # no file of a directory resembles its name
        words = nearest(name, known) if known else "accepted: FILE.py or FILE.py:VARIANT"
        raise ConfigError(f"no experiment file {str(path)!r}; {words}")
    return path, variant


def _import_file(file: Path) -> Any:
    if file.suffix != ".py":
        raise ConfigError(f"{file} is not a Python file; accepted: FILE.py or FILE.py:VARIANT")
    with errors_of(file):
        return run_code(Code(file, file.read_bytes()))


@contextlib.contextmanager
def errors_of(file: Path) -> Iterator[None]:
    """Turns an exception of an experiment file, also an exit, into a ConfigError with its line.

    The body can import the files beside the experiment file by name, as with `python FILE`.
    """
    beside = str(file.parent.resolve())
    sys.path.insert(0, beside)
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(
            f"{file}:{error.lineno}: SyntaxError: {error.msg}; accepted: Python"
        ) from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == file.resolve()]
        place = f"{file}:{lines[-1]}" if lines else str(file)
        raise ConfigError(
            f"{place}: {type(error).__name__}: {error}; accepted: code that raises nothing"
        ) from error
    finally:
        if beside in sys.path:  # the file may have changed the list
            sys.path.remove(beside)
