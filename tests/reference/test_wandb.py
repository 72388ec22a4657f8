"""`pretrain --tracker=wandb` writes the rows of metrics.jsonl for Weights & Biases, offline."""

import json
import math
import struct

from commands import run_command
from wandb.proto import wandb_internal_pb2

from bert_jax.config import override, to_json


def read_records(content):
    """Yields the records of a W&B file, which has the format of LevelDB's log after 7 bytes."""
    place, block, parts = 7, 32768, b""
    while block - place % block < 7 or place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def read_rows(file):
    """Returns the rows of a W&B file, by step."""
    rows = {}
    for data in read_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        if "step" in items:
            rows[items["step"]] = items
    return rows


def test_wandb_gets_every_row(experiment, tmp_path):
    config, workdir = tmp_path / "config.json", tmp_path / "a run"
    config.write_text(json.dumps(to_json(override(experiment, {"training.steps": 6}))))
    done = run_command(
        "pretrain", f"--experiment={config}", f"--workdir={workdir}", "--tracker=wandb"
    )
    assert done.returncode == 0, done.stderr
    (file,) = workdir.glob("wandb/offline-run-*/run-*.wandb")
    assert file.stem.startswith("run-a-run-")
    written = read_rows(file)
    expected = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert list(written) == [row["step"] for row in expected] == [2, 4, 6]
    for row in expected:
        for name, value in row.items():
            assert math.isclose(written[row["step"]][name], value)
