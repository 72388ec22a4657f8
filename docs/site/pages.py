"""Collects the pages of the site in a folder: docs/, README, notebooks and the API reference.

    python docs/site/pages.py FOLDER

Files outside docs/ that a page links to become pages as well, and the links lead to these pages.
"""

import ast
import posixpath
import re
import shutil
import sys
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
WHOLE = (".png", ".html")
"""Endings of files in docs/ that are copied as they are: figures and reports."""
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def main(folder: Path) -> None:
    """Writes all pages and images below `folder`."""
    shutil.rmtree(folder, ignore_errors=True)

    def write(name: str, content: str | bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    for whole in (file for kind in WHOLE for file in (ROOT / "docs").rglob(f"*{kind}")):
        write(site_path(whole), whole.read_bytes())
    for file in (*pages_in_docs(), *linked_files()):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            text, resources = MarkdownExporter().from_filename(str(file))
            for name, image in resources["outputs"].items():
                write(posixpath.join(posixpath.dirname(site_path(file)), name), image)
        elif file.suffix != ".md":
            name = file.relative_to(ROOT)
            text = f"# {name}\n\n````{file.suffix[1:]}\n{text}````\n"
        write(site_path(file), with_links_to_pages(text, file))
    for name, text in api_pages().items():
        write(f"api/{name}.md", text)


def with_links_to_pages(text: str, file: Path) -> str:
    """Returns the text of a file, whose links to files of the repository lead to their pages."""

    def replace(match: re.Match) -> str:
        target = (file.parent / match[0]).resolve()
        if not target.is_file():
            return match[0]
        return posixpath.relpath(site_path(target), posixpath.dirname(site_path(file)) or ".")

    return LINK.sub(replace, text) if file.suffix in (".md", ".ipynb") else text


def notebooks() -> list[Path]:
    """Returns the notebooks of the repository."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def pages_in_docs() -> list[Path]:
    """Returns the Markdown files in docs/."""
    return sorted((ROOT / "docs").rglob("*.md"))


def linked_files() -> list[Path]:
    """Returns README, the notebooks, and all files outside docs/ that a page links to."""
    shown = {ROOT / "README.md", *notebooks()}
    new = shown | set(pages_in_docs())
    while new:
        links = {
            (file.parent / link).resolve()
            for file in new
            if file.suffix == ".md"
            for link in LINK.findall(file.read_text(encoding="utf-8"))
        }
        outside = {file for file in links if file.is_file() and ROOT / "docs" not in file.parents}
        new, shown = outside - shown, shown | outside
    return sorted(shown)


def site_path(file: Path) -> str:
    """Returns the path on the site of a file of the repository."""
    name = file.relative_to(ROOT).as_posix()
    if name == "README.md":
        return "index.md"
    name = name.removeprefix("docs/")
    return name if file.suffix in (".md", *WHOLE) else f"{name.removesuffix('.ipynb')}.md"


def api_pages() -> dict[str, str]:
    """Returns the pages of the API reference by name: one for each folder of the package.

    The page of a folder has the public names of its modules, with their docstrings.
    """
    pages, index = {}, ["# API reference\n"]
    for folder in sorted({file.parent for file in (ROOT / "bert_jax").rglob("*.py")}):
        name = ".".join(folder.relative_to(ROOT).parts)
        described = {
            f"{name}.{file.stem}".removesuffix(".__init__"): text.splitlines()[0]
            for file in sorted(folder.glob("*.py"))
            if (text := ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))
        }
        if described:
            pages[name] = "\n".join([f"# {name}\n", *(f"::: {module}\n" for module in described)])
            index.append(f"\n## [{name}]({name}.md)\n")
            index += [f"- [`{one}`]({name}.md#{one}): {line}" for one, line in described.items()]
    return pages | {"index": "\n".join(index) + "\n"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
