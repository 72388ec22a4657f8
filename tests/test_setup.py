"""An editable installation finds the package from every working directory."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]


def test_the_package_is_found_beside_a_clone_of_its_name(tmp_path):
    """There, `import bert_jax` also finds the clone, a directory without `__init__.py`."""
    clone = tmp_path / "bert_jax"
    (clone / "bert_jax").mkdir(parents=True)
    (clone / "bert_jax" / "__init__.py").write_text("here = True\n")
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, clone)
    build = [sys.executable, "setup.py", "--quiet", "editable_wheel", "--dist-dir=../wheels"]
    subprocess.run(build, cwd=clone, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (programs,) = (tmp_path / "installed").glob("*/entry_points.txt")
    assert programs.read_text().split("\n")[1] == "bert_jax = bert_jax.__main__:main"
    script = f"import site; site.addsitedir({str(tmp_path / 'installed')!r}); import bert_jax; "
    python = [sys.executable, "-S", "-c", script + "print(bert_jax.here)"]
    found = subprocess.run(python, cwd=tmp_path, env={}, check=True, capture_output=True, text=True)
    assert found.stdout == "True\n"
