"""Writes a page about runs: their comparison with statements, tables and learning curves.

  python -m bert_jax.report runs/masking_rate --output=report.html
  python -m bert_jax.report runs/a runs/b --base=a --output=report.html

The arguments are runs of pretrain, or directories of runs such as those of sweep. Runs that differ
only in their seed are a point. The first point is the base, with which the others are compared. The
page is one file, and asks for no other file.
"""

from pathlib import Path

from absl import flags

from bert_jax import command
from bert_jax.config.paths import open_path
from bert_jax.errors import ConfigError, require
from bert_jax.files import write_atomically


def main(*directories: str) -> None:
    """Runs the command."""
    if not directories:
        raise ConfigError("no directory is given; accepted: runs, or directories of runs")
    output = command.required_path("output", "a file such as report.html", local=True)
    require(output.suffix == ".html", "--output", str(output), "a file FILE.html")
    paths = [open_path(one, name="the directory of runs", local=True) for one in directories]
    import jax

    from bert_jax.sweeps.gather import gather
    from bert_jax.sweeps.page import render

    jax.config.update("jax_platforms", "cpu")  # another process may hold the accelerator
    title = flags.FLAGS.title or ", ".join(Path(path).resolve().name for path in paths)
    write_atomically(output, render(gather(paths, base=flags.FLAGS.base), title=title))
    print(output)


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "The page, FILE.html.")
    flags.DEFINE_string("base", "", "Name of a run of the base. By default, it is the first run.")
    flags.DEFINE_string("title", "", "Title of the page. By default, the names of the directories.")
    command.run(main, operands=True)
