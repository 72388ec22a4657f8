"""Opens the initial weights of a run: `training.init_from`."""

from pathlib import Path

from bert_jax.errors import located
from bert_jax.runs.load import load_run
from bert_jax.training import checkpoint
from bert_jax.training.experiment import Experiment
from bert_jax.training.initial import InitialWeights


def open_initial_weights(experiment: Experiment, workdir: Path) -> InitialWeights | None:
    """Opens `training.init_from`.

    Returns None if the field is empty, if `workdir` has a checkpoint, or if the run is a branch.
    """
    source = experiment.training.init_from
    if not source or experiment.training.branch_from or checkpoint.latest_step(workdir):
        return None
    with located(f"training.init_from is {source!r}"):
        run = load_run(source)
    return InitialWeights(
        path=run.path,
        step=run.step,
        config=run.model.config,
        params=run.params,
        tokenizer=run.tokenizer,
        report=run.report(),
    )
