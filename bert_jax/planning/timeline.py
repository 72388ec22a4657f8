"""The plan of a run, phase by phase. It needs the experiment only, no data."""

import jax.numpy as jnp
import numpy as np

from bert_jax.models.flops import update_flops
from bert_jax.training.experiment import Experiment, Phase, phases
from bert_jax.training.optim import learning_rate_schedule

MOST_POINTS = 1_000_000
"""Largest number of steps at which a phase's learning rate is computed."""


def timeline(experiment: Experiment) -> str:
    """Returns a table with a column for each phase: rows, tokens, learning rate, FLOPs.

    Tokens and FLOPs are upper bounds, because they assume rows without padding (see `flops`).
    """
    plan = phases(experiment)
    costs = [phase_flops(phase) for phase in plan]
    labels = [
        *("updates", "data", "rows of a batch", "tokens of a row, at most", "tokens, at most"),
        *("learning rate, first update", "learning rate, highest", "learning rate, last"),
        *("Adam's moments, at the start", "FLOPs, at most", "share of all FLOPs"),
    ]
    columns = [["", *labels]]
    for phase, cost in zip(plan, costs, strict=True):
        config = phase.experiment
        data, microbatches = config.data, config.training.microbatches
        schedule = learning_rate_schedule(
            config.optimizer, steps=config.training.steps, start=phase.schedule_start
        )
        points = min(phase.steps, MOST_POINTS)
        steps = np.linspace(phase.first_step, phase.last_step - 1, points).round()
        rate = np.asarray(schedule(jnp.asarray(steps, jnp.int32)))
        columns.append(
            [
                f"phase {phase.number} of {len(plan)}",
                f"{phase.first_step + 1:,} to {phase.last_step:,}",
                data.directory,
                f"{data.batch_size:,}" + (f" in {microbatches} parts" if microbatches > 1 else ""),
                f"{data.sequence_length:,}",
                f"{phase_tokens(phase):,}",
                *(f"{value:.4g}" for value in (rate[0], rate.max(), rate[-1])),
                "0" if phase.number == 1 else phase.moments,
                f"{cost:.4g}",
                f"{cost / sum(costs):.1%}",
            ]
        )
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def phase_tokens(phase: Phase) -> int:
    """Returns the tokens of all updates of a phase for rows without padding."""
    return phase.steps * phase.experiment.data.batch_size * phase.experiment.data.sequence_length


def phase_flops(phase: Phase) -> float:
    """Returns the FLOPs of all updates of a phase for rows without padding."""
    data = phase.experiment.data
    masked = min(
        data.masking.max_predictions, round(data.sequence_length * data.masking.highest_rate)
    )
    row = update_flops(
        phase.experiment.model, pair_lengths=[data.sequence_length], predictions=masked
    )
    return phase.steps * data.batch_size * row
