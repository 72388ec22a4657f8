"""Caches the compiled updates and their descriptions, so that each update is compiled once."""

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from bert_jax import config
from bert_jax.config.paths import cache_directory
from bert_jax.environment import package_version
from bert_jax.errors import ConfigError
from bert_jax.files import write_atomically
from bert_jax.planning import compilation
from bert_jax.planning.topology import Topology

PACKAGES = {
    "tpu": (["libtpu"], "plan"),
    "cuda": (["jax-cuda13-plugin", "jax-cuda12-plugin"], "plan-gpu"),
}
"""The packages that compile for a platform, and the extra of bert_jax that installs one of them."""


def compiler_versions(topology: Topology) -> dict[str, str]:
    """Returns the versions of jax and of the topology's compiler.

    Raises:
      ConfigError: the compiler is not installed.
    """
    packages, extra = PACKAGES[topology.chip.platform]
    found = {name: package_version(name) for name in ("jax", "jaxlib", *packages)}
    versions = {name: version for name, version in found.items() if version}
    if not versions.keys() & packages:
        raise ConfigError(
            f"--topology={topology.name} needs {' or '.join(packages)}, which is not installed; "
            f"install it with pip install -e '.[{extra}]'"
        )
    return versions


def compile_update(
    experiment: Any, topology: Topology, *, time_limit: float
) -> tuple[dict[str, Any], str]:
    """Calls `compilation.compile_update`, unless its results are in the cache. Returns the results.

    The field `program` of the description is the path of the file with the program's text.
    """
    key = f"{config.config_hash(experiment)}-{_key(topology, compiler_versions(topology))}"
    file = cache_directory() / "plan" / f"{key}.json.gz"
    program = file.with_name(f"{key}.hlo.gz")
    try:
        return json.loads(_read(file)), _read(program)
    except (OSError, EOFError, zlib.error):  # there is no file, or it is damaged
        found, text = compilation.compile_update(experiment, topology, time_limit=time_limit)
    found["program"] = str(program)
    file.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((program, text), (file, json.dumps(found))):
        write_atomically(path, gzip.compress(content.encode(), mtime=0))
    return found, text


def _read(file: Path) -> str:
    return gzip.decompress(file.read_bytes() or b"?").decode()  # an empty file is damaged


def _key(topology: Topology, versions: dict[str, str]) -> str:
    """Returns a hash (12 digits) of the topology, the compiler and the code of this package."""
    code = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    content = [topology.name, compilation.OPTIMIZATION_LEVEL, versions, code.hexdigest()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
