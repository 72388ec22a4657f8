"""The file beside the checkpoint of a fine-tuned model: its config and its threshold."""

from pathlib import Path
from typing import NotRequired, TypedDict

from bert_jax.config import from_json, to_json
from bert_jax.errors import CheckpointError, located
from bert_jax.faults.run_files import AS_WRITTEN
from bert_jax.files import read_json, write_json
from bert_jax.tasks.config import FineTuningConfig

NOT_FINE_TUNED = (
    "{0} was not fine-tuned; accepted: a directory that finetune made from it, with python -m "
    "bert_jax.finetune --experiment=FILE --checkpoint={0} --workdir=DIR"
)
NO_CONFIG = (
    "{} lacks fine_tuning.json, the config of its fine-tuning; accepted: a directory seed-N where "
    "finetune wrote it"
)
FILE = "fine_tuning.json"


class _Result(TypedDict):
    best_seed: int


class _Seed(TypedDict):
    threshold: NotRequired[float | None]


def is_run(path: Path) -> bool:
    """Returns whether a directory is a run of pretrain or finetune, or a seed of finetune."""
    return (path / "checkpoints").is_dir() or (path / "identity.json").exists()


def best_seed(path: Path) -> Path:
    """Returns the directory of the seed that is best on dev, by the main metric of the task.

    Raises:
      CheckpointError: `result.json` is missing, because no seed has ended, or is damaged.
    """
    file = path / "result.json"
    if not file.exists():
        raise CheckpointError(
            f"{path} is a fine-tuning without result.json, so no seed is the best; accepted: a "
            f"finished fine-tuning, or a seed of it that has ended, such as {path}/seed-0"
        )
    result = read_json(file, _Result, error=CheckpointError, advice=AS_WRITTEN)
    return path / f"seed-{result['best_seed']}"


def read_fine_tuning(path: Path) -> tuple[FineTuningConfig | None, float | None]:
    """Returns the config of a fine-tuned model, and its threshold for no answer, if it has one.

    They are in `fine_tuning.json`. Seeds of earlier versions lack this file: their config is in the
    directory of all seeds, and their threshold in `result.json`. The config is None if both lack
    it.

    Raises:
      CheckpointError, ConfigError: a file is damaged, or the config is not valid.
    """
    files = {path / FILE: path / FILE, path.parent / "config.json": path / "result.json"}
    for file, of_seed in files.items():
        if file.exists():
            content = read_json(file, error=CheckpointError, advice=AS_WRITTEN)
            seed = read_json(of_seed, _Seed, error=CheckpointError, advice=AS_WRITTEN)
            with located(file):
                config = from_json(FineTuningConfig, content.get("config", content))
                return config, seed.get("threshold")
    return None, None


def write_fine_tuning(directory: Path, config: FineTuningConfig, threshold: float | None) -> None:
    """Writes the file that `read_fine_tuning` reads."""
    write_json(directory / FILE, {"config": to_json(config), "threshold": threshold})
