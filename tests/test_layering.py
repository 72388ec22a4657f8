"""Who may import whom, read from the source; and what an import drags in, asked of a process.

The table is docs/design.md's "Who may import whom". A module that no row names fails the test: a
new module gets a row, by decision.
"""

import ast
import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]
PACKAGE = ROOT / "bert_jax"
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

LINES_OF_A_MODULE = 350
LINES_OF_THE_CORE = 2500
"""training/ and models/: what a newcomer reads in an hour."""

# Configs, errors and files are leaves that every layer may name.
LEAVES = ("errors", "files")
CONFIGS = ("data.config", "models.config", "training.config")
TRAINING_BASE = ("training.losses", "training.optim", "training.metrics", "training.sharding")
TRAINING_STEP = (*TRAINING_BASE, "training.state", "training.step")

MAY_IMPORT = {
    "__init__": ("runs",),
    "errors": (),
    "files": (),
    "environment": LEAVES,
    "config": LEAVES,
    "command": ("config", "experiment", *LEAVES),
    "experiment": (
        *CONFIGS,
        "config",
        "training.losses",
        "training.optim",
        "training.sharding",
        *LEAVES,
    ),
    "flops": ("models.config",),
    "timeline": ("data.config", "experiment", "flops", "training.optim", *LEAVES),
    "data.batch": (),
    "data.config": LEAVES,
    "data.sources.base": LEAVES,
    "data.sources.files": ("data.sources.base", *LEAVES),
    "data.sources.embedded": ("data.sources.base", *LEAVES),
    "data.sources.sotu_builder": ("data.sources.embedded",),
    "data.sources.tfds": (
        *("data.sources.base", "data.sources.files", "data.sources.sotu_builder"),
        *LEAVES,
    ),
    "data.sources.*": ("data.sources.base", "data.sources.files", *LEAVES),
    "data.corpora": ("data.sources.*", *LEAVES),
    "data.inputs": ("data.corpora", "data.passport", "data.sources.*", *LEAVES),
    "data.engines": LEAVES,
    "data.words": (),
    "data.wordpiece": ("data.words", *LEAVES),
    "data.sentence_piece": ("data.wordpiece", "data.words", *LEAVES),
    "data.tokenizers": ("data.sentence_piece", "data.wordpiece", *LEAVES),
    "data.counts": (),
    "data.vocabulary": ("data.counts", "data.wordpiece", "data.words", *LEAVES),
    "data.unigram": ("data.counts", "data.sentence_piece", "data.wordpiece", *LEAVES),
    "data.pairs": LEAVES,
    "data.passport": ("data.config", *LEAVES),
    "data.examples": ("data.pairs",),
    "data.spans": (),
    "data.masking": (
        *("data.batch", "data.config", "data.pairs", "data.spans", "data.tokenizers"),
        *LEAVES,
    ),
    "data.packing": ("data.pairs",),
    "data.records": ("data.pairs", *LEAVES),
    "data.exclusion": ("data.sources.files", "data.words", *LEAVES),
    "data.survey": (
        *("data.config", "data.corpora", "data.exclusion", "data.passport", "data.sources.*"),
        *("data.tokenizers", "data.unigram", "data.vocabulary"),
        *LEAVES,
    ),
    "data.shards": (
        *("data.config", "data.corpora", "data.examples", "data.packing", "data.passport"),
        *("data.records", "data.tokenizers"),
        *LEAVES,
    ),
    "data.summary": (
        *("data.config", "data.masking", "data.records", "data.tokenizers"),
        *LEAVES,
    ),
    "data.preparation": (
        *("data.config", "data.corpora", "data.engines", "data.exclusion", "data.inputs"),
        *("data.passport", "data.records", "data.shards", "data.summary", "data.survey"),
        "data.tokenizers",
        *LEAVES,
    ),
    "data.pipeline": (
        *("data.batch", "data.config", "data.masking", "data.packing", "data.pairs"),
        *("data.passport", "data.records", "data.tokenizers"),
        *LEAVES,
    ),
    "audit.shortcut": ("data.pairs", "data.records", *LEAVES),
    "audit.findings": ("audit.shortcut",),
    "audit.figures": ("audit.shortcut",),
    "audit.page": ("audit.*", "data.passport", "data.tokenizers", *LEAVES),
    "models.config": LEAVES,
    "models.*": ("models.*", "training.sharding", "data.batch", *LEAVES),
    "training.config": LEAVES,
    "training.metrics": (),
    "training.sharding": ("config", *LEAVES),
    "training.losses": ("training.metrics",),
    "training.optim": ("training.metrics", "training.sharding", "config", *LEAVES),
    "training.state": (*TRAINING_BASE, "models.*", "data.batch", *LEAVES),
    "training.step": (*TRAINING_BASE, "training.state", "models.*", "data.batch", *LEAVES),
    "training.evaluation": (*TRAINING_STEP, "data.batch", *LEAVES),
    "training.initial": ("experiment", "runs", "data.tokenizers", *LEAVES),
    "training.checkpoint": (*TRAINING_STEP, "models.config", "config", "experiment", *LEAVES),
    "training.writer": (*TRAINING_STEP, "training.config", *LEAVES),
    "training.phases": (
        *("data.batch", "data.passport", "data.pipeline", "data.tokenizers", "experiment"),
        *LEAVES,
    ),
    "training.train": (
        *("training.*", "models.*", "config", "environment", "experiment", "runs"),
        *("data.batch", "data.passport"),
        *LEAVES,
    ),
    "interop.*": (
        *("interop.*", "models.config", "tasks.head", "data.tokenizers", "data.wordpiece"),
        *LEAVES,
    ),
    # Fine-tuning: a family of tasks sees records and arrays; only the page and a seed see runs.
    "tasks.head": (),
    "tasks.config": ("config", "models.config", "training.optim", "training.sharding", *LEAVES),
    "tasks.records": LEAVES,
    "tasks.readers": ("tasks.records", "tasks.conll", "tasks.squad", "tasks.tfds", *LEAVES),
    "tasks.conll": ("tasks.records", *LEAVES),
    "tasks.squad": ("tasks.records", *LEAVES),
    "tasks.tfds": ("tasks.records", "data.sources.tfds", *LEAVES),
    "tasks.family": ("tasks.config", "tasks.records", "training.metrics", "data.tokenizers"),
    "tasks.encoding": ("tasks.family", "data.tokenizers"),
    "tasks.metrics": ("tasks.family", *LEAVES),
    "tasks.spans": (),
    "tasks.results": ("tasks.family",),
    "tasks.model": ("models.*", "pooling", "tasks.head", "training.sharding"),
    **dict.fromkeys(
        (
            *("tasks.classification", "tasks.regression", "tasks.tagging"),
            *("tasks.question_answering", "tasks.multiple_choice"),
        ),
        (
            *("tasks.config", "tasks.records", "tasks.family", "tasks.encoding", "tasks.metrics"),
            *("tasks.classification", "tasks.spans", "training.losses", "training.metrics"),
            *("data.tokenizers", "data.wordpiece"),
            *LEAVES,
        ),
    ),
    "tasks.families": ("tasks.*",),
    "tasks.datasets": (
        *("tasks.config", "tasks.families", "tasks.family", "tasks.readers", "tasks.records"),
        "data.tokenizers",
        *LEAVES,
    ),
    "tasks.state": (
        *("tasks.config", "tasks.family", "tasks.head", "tasks.model", "models.config"),
        *("training.metrics", "training.optim", "training.state"),
        *LEAVES,
    ),
    "tasks.tuning": (
        *("tasks.config", "tasks.datasets", "tasks.encoding", "tasks.family", "tasks.model"),
        *("tasks.state", "training.checkpoint", "training.metrics", "config", "runs"),
        *LEAVES,
    ),
    "tasks.probe": (
        *("tasks.config", "tasks.datasets", "tasks.encoding", "tasks.family", "tasks.metrics"),
        *("tasks.model", "tasks.state", "models.config", "data.tokenizers"),
        *LEAVES,
    ),
    "tasks.finetuning": (
        *("tasks.*", "config", "environment", "runs"),
        *("training.initial", "training.sharding"),
        *LEAVES,
    ),
    "inference": (
        *("data.batch", "data.masking", "data.pairs", "data.tokenizers"),
        *("models.*", "pooling", *LEAVES),
    ),
    "pooling": ("models.*", *LEAVES),
    "generation": ("data.masking", "data.tokenizers", "inference", "models.*", *LEAVES),
    "runs": (
        *("config", "experiment", "generation", "inference", "interop.*", "models.*"),
        *("tasks.head", "tasks.model", "training.checkpoint", "training.state", "data.tokenizers"),
        *LEAVES,
    ),
}

THIRD_PARTY_OF = {
    # `import grain` imports jax: only the pipeline may, so that workers of `prepare` do not.
    "grain": ("data.pipeline",),
    "orbax": ("training.checkpoint",),
    "tensorboardX": ("training.writer",),
    "optax": ("training.*", "tasks.state"),
    "flax": ("models.*", "training.*", "tasks.model", "tasks.state"),
    "sklearn": ("tasks.metrics", "tasks.probe", "audit.shortcut"),
    "scipy": ("tasks.metrics", "audit.shortcut"),
    "absl": ("command", "MAIN"),
    "jax": (
        *("models.*", "training.*", "tasks.*", "inference", "generation", "pooling", "runs"),
        *("data.pipeline", "environment", "flops", "timeline", "MAIN"),
    ),
    "msgspec": ("config",),
    # TensorFlow belongs to nobody: it takes seconds to import and the memory of a device. TFDS
    # does without it, and like all readers of one format is imported where its files are read.
    "tensorflow": (),
    "tensorflow_datasets": ("data.sources.tfds", "data.sources.sotu_builder"),
    "sentencepiece": ("data.sentence_piece", "data.unigram", "data.vocabulary"),
    "pyarrow": ("data.sources.parquet",),
    "fsspec": ("data.sources.files",),
    # The extra `audit`.
    "jinja2": ("audit.page",),
    "matplotlib": ("audit.figures",),
    "apache_beam": ("data.engines",),
}


def module_name(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")  # but the package's own keeps it


MODULES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" or path.stat().st_size
}


def is_main(tree):
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )


MAINS = {name for name, tree in MODULES.items() if is_main(tree)}


def imported(tree):
    """Every module that the source names in an import, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("bert_jax.") in MODULES
                yield inner if is_module else node.module


def ours(tree):
    """Modules of the package that it imports; the package itself counts by what it gives."""
    for name in imported(tree):
        if name == "bert_jax" or name.startswith("bert_jax."):
            yield name.removeprefix("bert_jax").removeprefix(".") or "__init__"


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def row_of(name):
    return MAY_IMPORT.get(name) or next(
        (row for pattern, row in MAY_IMPORT.items() if fnmatch.fnmatchcase(name, pattern)), None
    )


def test_the_reader_of_imports_sees_every_form():
    """Else the rules below would hold of nothing."""
    source = (
        "import jax.numpy as jnp\nfrom bert_jax import runs\nfrom bert_jax.data.pairs import Pair\n"
        "def f():\n    from bert_jax.data import shards\n    import bert_jax\n"
    )
    tree = ast.parse(source)
    assert list(imported(tree))[0] == "jax.numpy"
    assert set(ours(tree)) == {"runs", "data.pairs", "data.shards", "__init__"}
    assert {"pretrain", "prepare"} <= MAINS and "command" not in MAINS


@pytest.mark.parametrize("name", sorted(MODULES.keys() - MAINS))
def test_a_module_imports_only_what_its_row_allows(name):
    row = row_of(name)
    assert row is not None, f"{name} has no row in MAY_IMPORT: decide what it may import"
    forbidden = sorted({other for other in ours(MODULES[name]) if not matches(other, row)})
    assert not forbidden, f"{name} imports {forbidden}; its row allows {row}"


def test_every_row_of_the_table_allows_less_than_everything():
    """A rule that allows each module to every other would pass the test above and say nothing."""
    for name in MODULES.keys() - MAINS - {"training.train"}:
        allowed = [other for other in MODULES if matches(other, row_of(name))]
        assert len(allowed) < len(MODULES) / 2, name


def test_nobody_imports_a_main():
    for name, tree in MODULES.items():
        assert not MAINS & set(ours(tree)), name


def test_the_package_has_no_import_cycle():
    """Lazy imports of `__init__`, which exist to break one, are left out."""
    graph = {name: set(ours(tree)) - {name} for name, tree in MODULES.items() if name != "__init__"}
    done = set()
    while ready := {name for name in graph.keys() - done if not graph[name] - done - {"__init__"}}:
        done |= ready
    assert not graph.keys() - done, f"in a cycle: {sorted(graph.keys() - done)}"


@pytest.mark.parametrize("library", THIRD_PARTY_OF)
def test_a_library_is_imported_only_where_it_belongs(library):
    users = THIRD_PARTY_OF[library]
    for name, tree in MODULES.items():
        tops = {other.split(".")[0] for other in imported(tree)}
        if library in tops:
            assert matches(name, users) or (name in MAINS and "MAIN" in users), name


def test_losses_see_arrays_only():
    """No Batch, no model, no state: what they are given is arrays and Means."""
    names = {node.id for node in ast.walk(MODULES["training.losses"]) if isinstance(node, ast.Name)}
    attributes = {
        node.attr
        for node in ast.walk(MODULES["training.losses"])
        if isinstance(node, ast.Attribute)
    }
    assert not names & {"Batch", "TrainState", "EncoderOutput", "PretrainingOutput"}
    assert not attributes & {"apply", "params", "token_ids", "mask_labels", "pair_labels"}


# ---- Asked of a fresh interpreter ----------------------------------------------------------------


def loaded_after(code):
    """Top-level names in sys.modules after the code ran in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}


def test_data_and_audit_modules_but_the_pipeline_load_neither_jax_nor_grain():
    names = [name for name in MODULES if name.startswith(("data.", "audit."))]
    names.remove("data.pipeline")
    assert len(names) >= 8
    loaded = loaded_after("\n".join(f"import bert_jax.{name}" for name in names))
    assert "numpy" in loaded
    assert not loaded & {"jax", "jaxlib", "grain", "flax", "orbax", "tensorflow"}


@pytest.mark.parametrize("name", ["config", *sorted(MAINS)])
def test_the_package_its_config_and_every_main_load_no_jax(name):
    """A spawned worker of `prepare` imports the main again, and must not start jax."""
    loaded = loaded_after(f"import bert_jax, bert_jax.command, bert_jax.{name}")
    assert not loaded & {"jax", "jaxlib", "grain", "flax", "optax", "orbax"}


def test_importing_and_calling_an_experiment_starts_no_backend():
    """With a platform that does not exist, the first use of a backend would be an error."""
    code = "import os\nos.environ['JAX_PLATFORMS'] = 'no_such_platform'\n"
    code += "from bert_jax.config import load_experiment\n"
    code += "".join(f"load_experiment({str(path)!r})\n" for path in EXPERIMENTS)
    loaded = loaded_after(code)
    assert "bert_jax" in loaded and not loaded & {"grain", "orbax", "tensorflow"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_imports_experiment_and_config_classes_only(path):
    """And `load_experiment` and `override`, with which an ablation names what it departs from."""
    standard = {"typing", "dataclasses", "collections", "itertools", "math", "pathlib"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= standard
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module == "bert_jax.training.experiment":
                assert names == {"Experiment"}
            elif node.module == "bert_jax.config":
                assert names <= {"load_experiment", "override"}
            elif node.module.startswith("bert_jax."):
                assert all(name.endswith("Config") or name == "ShardingRules" for name in names)
            else:
                assert node.module.split(".")[0] in standard


# ---- Sizes ---------------------------------------------------------------------------------------


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_is_longer_than_the_budget():
    too_long = {
        str(path.relative_to(ROOT)): lines(path)
        for path in PACKAGE.rglob("*.py")
        if lines(path) > LINES_OF_A_MODULE
    }
    assert not too_long, f"split, or say it shorter: at most {LINES_OF_A_MODULE} lines"


def test_the_core_keeps_to_its_budget():
    core = [*(PACKAGE / "training").rglob("*.py"), *(PACKAGE / "models").rglob("*.py")]
    assert len(core) > 10
    assert sum(map(lines, core)) <= LINES_OF_THE_CORE
