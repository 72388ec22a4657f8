"""Parts: configs whose class an experiment chooses, such as its model. Names and finds the classes.

The field `model` of an experiment has the type `BertConfig`. Its value may also be of a subclass,
of bert_jax or of a user's own file. A stored config then has the key `class`: the name of the class
or, for a user's own class, `FILE.py:NAME@SHA256` with the SHA-256 of the file. Reading a config
never runs a file: a class is found only if this process has run its file before.
"""

import dataclasses
import hashlib
import importlib
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.errors import CheckpointError, ConfigError, UnknownCodeError

CLASS = "class"
"""Key of a stored config for its class, if this is not the type of the field."""

DIRECTORY = "code"
"""Directory in a run with the copies of the files that define its classes."""

OURS = {"ModernConfig": "bert_jax.models.config"}
"""The classes of bert_jax that a stored config may name, and their modules."""


class Code(NamedTuple):
    """A user's own file that defines classes."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class OwnClass(NamedTuple):
    """A class in a user's own file, as a stored config names it."""

    file: str
    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.file}:{self.name}@{self.sha256}"


_OWN_CLASS = re.compile(r"([\w-][\w.-]*\.py):(\w+)@([0-9a-f]{64})")

_codes: dict[str, Code] = {}
"""The files that were run, by the name of their module."""


def run_code(code: Code) -> types.ModuleType:
    """Runs a file and returns its module. The file must be trusted: it can do anything.

    A file is run once, so its classes stay the same.
    """
    place = hashlib.sha256(f"{code.path.resolve()} {code.sha256}".encode()).hexdigest()
    module = types.ModuleType(f"experiment_{code.path.stem}_{place[:12]}")
    if module.__name__ in sys.modules:
        return sys.modules[module.__name__]
    module.__file__ = str(code.path)
    _codes[module.__name__] = code
    sys.modules[module.__name__] = module  # where dataclasses look for the names in annotations
    try:
        exec(compile(code.content, str(code.path), "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def class_name(kind: type, expected: type | None) -> str | None:
    """Returns the name of a config's class, or None if it is the `expected` class.

    Raises:
      ConfigError: a user's own class is not defined at the top of a file.
    """
    if kind is expected:
        return None
    if OURS.get(kind.__name__) == kind.__module__:
        return kind.__name__
    module = sys.modules.get(kind.__module__)
    code = module and _code_of(module)
    if code is None or getattr(module, kind.__qualname__, None) is not kind:
        raise ConfigError(
            f"the class {kind.__qualname__} is not defined at the top of a file; accepted: a class "
            "of an experiment file, or of a file that it imports"
        )
    own = OwnClass(code.path.name, kind.__qualname__, code.sha256)
    if not _OWN_CLASS.fullmatch(str(own)):
        raise ConfigError(f"{code.path} defines a class; accepted: a name like own_model.py")
    return str(own)


def short(name: str) -> str:
    """Returns the name of a class with 12 digits of the SHA-256, for tables and messages."""
    return re.sub(r"(?<=@[0-9a-f]{12})[0-9a-f]+", "", name)


def find_class(name: Any, expected: type, path: str) -> type:
    """Returns the class that a stored config names at `path`. Runs no file.

    Raises:
      UnknownCodeError: the class is of a file that this process has not run.
      ConfigError: there is no such class, or it is no subclass of the `expected` class.
    """
    if name in OURS:
        found = getattr(importlib.import_module(OURS[name]), name)
    else:
        own = _parse(name, path)
        module = _module_of(own)
        if module is None:
            raise UnknownCodeError(
                f"{path} is {own.name} of {own.file}, a file of SHA-256 {own.sha256} that was not "
                f"run; accepted: --code=FILE with this file (a run has a copy in {DIRECTORY}/), or "
                "load_run(..., trust_code=True), if you trust it"
            )
        found = getattr(module, own.name, None)
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise ConfigError(f"{path} is {name!r}; accepted: a subclass of {expected.__name__}")
    return found


def run_copies(description: Mapping[str, Any], read: Any) -> None:
    """Runs the files of the classes that a stored config names. The directory must be trusted.

    `read` returns the content of the copy of a file, given its name.

    Raises:
      CheckpointError: the SHA-256 of a copy differs from the config's.
    """
    for section in (description, *description.values()):
        if isinstance(section, Mapping) and section.get(CLASS, "ModernConfig") not in OURS:
            own = _parse(section[CLASS], CLASS)
            if _module_of(own):
                continue
            code = Code(Path(own.file), read(own.file))
            if code.sha256 != own.sha256:
                raise CheckpointError(
                    f"{DIRECTORY}/{own.file} has SHA-256 {code.sha256}; accepted: {own.sha256}, as "
                    "the config says"
                )
            run_code(code)


def codes_of(config: Any) -> list[Code]:
    """Returns the users' own files that define the classes of a config and of its sections.

    Raises:
      ConfigError: two files have one name but different contents.
    """
    codes: dict[str, Code] = {}
    for section in _sections(config):
        module = sys.modules.get(type(section).__module__)
        code = _code_of(module) if module else None
        if code and codes.setdefault(code.path.name, code).content != code.content:
            raise ConfigError(
                f"{code.path} and {codes[code.path.name].path} define classes of one experiment; "
                "accepted: files of different names"
            )
    return list(codes.values())


def _sections(config: Any) -> Iterator[Any]:
    yield config
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from _sections(value)


def _parse(name: Any, path: str) -> OwnClass:
    found = _OWN_CLASS.fullmatch(name) if isinstance(name, str) else None
    if not found:
        accepted = ", ".join((*OURS, "FILE.py:NAME@SHA256"))
        raise ConfigError(f"{path} is {name!r:.200}; accepted: {accepted}")
    return OwnClass(*found.groups())


def _module_of(own: OwnClass) -> types.ModuleType | None:
    """Returns the module that ran last of those with the file of a class, or None."""
    for module in reversed(list(sys.modules.values())):
        if Path(getattr(module, "__file__", None) or "").name == own.file:
            code = _code_of(module)
            if code and code.sha256 == own.sha256:
                return module
    return None


def _code_of(module: types.ModuleType) -> Code | None:
    """Returns the file of a module as it was when it was run; None for bert_jax and without one."""
    name, file = module.__name__, getattr(module, "__file__", None)
    if name.partition(".")[0] == "bert_jax" or not str(file).endswith(".py"):
        return None
    if name not in _codes and Path(str(file)).is_file():  # imported by an experiment file
        _codes[name] = Code(Path(str(file)), Path(str(file)).read_bytes())
    return _codes.get(name)
