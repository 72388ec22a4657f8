"""Computes parts of a finished run again, and says whether they agree with what the run wrote.

  python -m bert_jax.verify --run=runs/quickstart
  python -m bert_jax.verify --run=runs/base --rows=3
  python -m bert_jax.verify --run=runs/masking_rate --rows=0
  python -m bert_jax.verify --run=report.html

It compares the hashes of config, data, checkpoints and metrics.jsonl. It reads the batches of
random rows of metrics.jsonl again. It makes the updates of the first rows again, from the start and
from each kept checkpoint, and the last evaluation. The prepared data of the run are needed, and
devices that suit its mesh. In the directory of a sweep, it does this for each finished run, and
then computes the tables again. For a page of report, it does the same, and makes the page again.
Exit status: 0 if all agrees, 1 if something differs.
"""

import sys

from absl import flags

from bert_jax import command, environment
from bert_jax.errors import require


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    workdir, rows = command.required_path("run"), flags.FLAGS.rows
    require(rows >= 0, "--rows", rows, "at least 0")
    from bert_jax.verify.checks import verify, verify_page, verify_sweep

    function = verify_sweep if (workdir / "summary.csv").exists() else verify
    function = verify_page if workdir.suffix == ".html" else function
    checks = []
    for check in function(workdir, rows=rows):
        checks.append(check)
        result = "agrees " if check.agrees else "DIFFERS"
        print(f"{result}  {check.subject}: {check.said}", flush=True)
    different = sum(not check.agrees for check in checks)
    print(f"{len(checks)} checks, {different} {'differs' if different == 1 else 'differ'}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "A finished run, a sweep, or FILE.html of report.")
    words = "Rows of metrics.jsonl to make again from each start; 0 compares hashes and tables."
    flags.DEFINE_integer("rows", 1, words)
    command.run(main)
