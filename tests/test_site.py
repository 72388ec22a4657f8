"""The site of the documentation: its navigation has all pages. `launch/docs.sh` builds it."""

import re
from pathlib import Path

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]


def test_the_navigation_has_every_page_of_the_documentation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    named = set(re.findall(r": (\S+\.md)$", navigation, flags=re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert not (pages | notebooks) - named
