"""The import rules of pyproject.toml hold, and imports load no unneeded library."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]
PACKAGE = ROOT / "bert_jax"
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
OWN_PARTS = "own_parts"
"""The folder of experiments that define classes, for which they need the modules of a user."""
COMMANDS = ("bench", "convert", "evaluate", "finetune", "plan", "predict", "prepare")
COMMANDS += ("pretrain", "report", "sweep")


# ---- Rules ---------------------------------------------------------------------------------------


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the package and the pyproject.toml in `root`."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_keeps_the_import_rules():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken." in result.stdout


@pytest.mark.parametrize(
    ("imports", "broken"),
    [
        pytest.param(
            {"models/layers.py": "def f():\n    from bert_jax.training import losses\n"},
            "A folder imports only the folders below it",
            id="climbs, inside a function",
        ),
        pytest.param(
            {
                "data/sources/base.py": "from bert_jax.data.tokenizers import counts\n",
                "data/tokenizers/words.py": "from bert_jax.data.sources import text\n",
            },
            "No circle, neither between folders nor between modules of a folder",
            id="a circle between folders, but between no modules",
        ),
        pytest.param(
            {"models/layers.py": "from bert_jax.data.sources import corpora\n"},
            "Models know nothing of data but the batch",
            id="a model reads text",
        ),
        pytest.param(
            {"evaluate.py": "from bert_jax.pretrain import main as other\n"},
            "A folder imports only the folders below it",
            id="imports a command",
        ),
        pytest.param(
            {"data/records.py": "def f():\n    import tensorflow\n"},
            "TensorFlow is imported nowhere",
            id="imports TensorFlow",
        ),
        pytest.param(
            {"data/masking.py": "import grain\n"},
            "Where grain may be imported",
            id="imports grain outside the pipeline",
        ),
        pytest.param(
            {"new_module.py": "import json\n"},
            "bert_jax.new_module",
            id="a module without a layer",
        ),
    ],
)
def test_a_forbidden_import_breaks_a_rule(imports, broken, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        PACKAGE, tmp_path / "bert_jax", ignore=shutil.ignore_patterns("embedded", "__pycache__")
    )
    for file, text in imports.items():
        with (tmp_path / "bert_jax" / file).open("a", encoding="utf-8") as stream:
            stream.write(text)
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert broken in result.stdout.partition("Broken contracts")[2], result.stdout


def test_losses_import_no_batch_model_or_state():
    """Losses take arrays and return Means. They know no batch, model or state."""
    tree = ast.parse((PACKAGE / "training" / "losses.py").read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "Mean" in names
    assert not names & {"Batch", "TrainState", "EncoderOutput", "PretrainingOutput"}
    assert not attributes & {"apply", "params", "token_ids", "mask_labels", "pair_labels"}


def allowed_in_an_experiment(module: str, names: set[str]) -> bool:
    """Whether an experiment file may import these names from the module.

    An experiment is built from config classes. `load_experiment` and `override` let an ablation
    name the experiment that it changes.
    """
    if module in ("bert_jax", "bert_jax.training.experiment"):
        return names == {"Experiment"}
    if module == "bert_jax.config":
        return names <= {"load_experiment", "override"}
    if module.startswith("bert_jax."):
        return all(name.endswith("Config") or name == "ShardingRules" for name in names)
    standard = {"typing", "dataclasses", "collections", "itertools", "math", "pathlib"}
    return module.split(".")[0] in standard


def test_an_experiment_imports_experiment_and_config_classes_only():
    assert len(EXPERIMENTS) > 10
    for path in EXPERIMENTS:
        if path.parent.name == OWN_PARTS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = {alias.name: set() for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {node.module or "": {alias.name for alias in node.names}}
            else:
                continue
            for module, names in imported.items():
                assert allowed_in_an_experiment(module, names), f"{path}: {module} {names}"


# ---- Modules that a new interpreter loads --------------------------------------------------------


def loaded_after(code: str) -> set[str]:
    """Runs code in another process and returns the top-level names in its sys.modules."""
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
    paths = [*(PACKAGE / "data").rglob("*.py"), *(PACKAGE / "audit").rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    names.remove("bert_jax.data.pipeline")
    assert len(names) >= 8
    loaded = loaded_after("\n".join(f"import {name}" for name in names))
    assert "numpy" in loaded
    assert not loaded & {"jax", "jaxlib", "grain", "flax", "orbax", "tensorflow"}


@pytest.mark.parametrize(
    "name",
    [
        *("__main__", "config", "config.__main__", "new.__main__", "verify.__main__"),
        *COMMANDS,
    ],
)
def test_the_package_its_config_and_every_command_load_no_jax(name):
    """A spawned worker of `prepare` imports the command again and must not start jax."""
    loaded = loaded_after(f"import bert_jax, bert_jax.command, bert_jax.{name}")
    assert not loaded & {"jax", "jaxlib", "grain", "flax", "optax", "orbax"}


def test_importing_the_package_takes_no_time():
    """CPU time, which a busy machine hardly changes."""
    code = "import time\nbefore = time.process_time()\nimport bert_jax\n"
    code += "print(time.process_time() - before)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 0.3


def test_importing_and_calling_an_experiment_starts_no_backend():
    """With a platform that does not exist, the first use of a backend would be an error."""
    code = "import os\nos.environ['JAX_PLATFORMS'] = 'no_such_platform'\n"
    code += "from bert_jax.config import load_experiment\n"
    code += "".join(f"load_experiment({str(path)!r})\n" for path in EXPERIMENTS)
    loaded = loaded_after(code)
    assert "bert_jax" in loaded and not loaded & {"grain", "orbax", "tensorflow"}
