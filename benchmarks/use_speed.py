r"""Times `run.embed` and an update of a fine-tuning beside transformers in torch.

  python benchmarks/task_sets.py --output=data/tasks --only=movie_sentiment --only=boolq
  weights=$(.venv-reference/bin/python tests/reference/download.py | grep minilm | cut -f2)
  .venv-reference/bin/python benchmarks/use_speed.py --weights=$weights --tasks=data/tasks

The model is all-MiniLM-L6-v2: 6 layers of width 384. Each side has a new process in each round, and
the side that starts changes from round to round. A process first does its work once without timing,
which includes compilation.

  sentences     `embed` of film reviews of one sentence, mean pooling
  paragraphs    `embed` of Wikipedia paragraphs, mean pooling
  fine-tuning   updates of a classification of 32 reviews of at most 64 tokens

torch embeds batches of 32 texts of similar length, padded to the longest, with SDPA. Its update has
the same rows, dropout rates, clipping and AdamW (fused). Both sides use all cores, and torch keeps
freed memory. The times of `embed` include tokenization. With --one_core, a side runs on one core,
and its times are CPU seconds, which other work of the machine disturbs less.

The record is docs/runs/use_speed.json; benchmarks/performance_page.py writes its table.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bert_jax import command, cpu, environment
from bert_jax.benchmarking.comparison import ALLOCATOR, OURS
from bert_jax.benchmarking.peer import NO_DECAY, import_torch
from bert_jax.errors import BertJaxError, ConfigError
from bert_jax.files import write_json

FLAGS = flags.FLAGS
FORMAT_VERSION = 1
EMBED = {
    "sentences": ("movie_sentiment/train.tsv", 400),
    "paragraphs": ("boolq/test.jsonl", 400),
}
"""File of each set below --tasks, and the number of texts."""
KINDS = (*EMBED, "fine-tuning")
SIDES = (OURS, "torch")
ROWS, LENGTH, UPDATES = 32, 64, 8
LABELS = ("positive", "negative")
RATE, CLIP, DECAY = 2e-5, 1.0, 0.01
WITHOUT_HEADS = ("masked_token_head", "next_sentence_head")


def read_texts(kind: str, tasks: Path) -> list[str]:
    """Returns the texts of a set: the first of the file, without repetitions."""
    file, count = EMBED[kind]
    with (tasks / file).open(encoding="utf-8", newline="") as lines:
        if file.endswith(".tsv"):
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            texts = [row["text"] for row in rows]
        else:
            texts = [json.loads(line)["passage"] for line in lines]
    return list(dict.fromkeys(texts))[:count]


def timed(work: Callable[[], Any], *, count: int = 1) -> dict[str, float]:
    """Returns the seconds of `work` after a first call, divided by `count`."""
    clock = time.process_time if FLAGS.one_core else time.perf_counter
    work()
    start = clock()
    work()
    return {"seconds": (clock() - start) / count}


# ---- bert_jax ----------------------------------------------------------------------------------


def embed_ours(weights: Path, texts: list[str], vectors: Path) -> dict[str, Any]:
    """Times `run.embed`. Counts its tokens, the positions of its rows, and its programs."""
    from bert_jax import load_run
    from bert_jax.runs import inference

    run = load_run(weights, allow=WITHOUT_HEADS)
    measured = timed(lambda: np.save(vectors, run.embed(texts, truncate=True)))
    pairs = [inference.encode_text(run.text_model, text, truncate=True) for text in texts]
    batches = list(inference.lay_out_batches(run.text_model, pairs))
    return measured | {
        "tokens": sum(int((batch.layout.pack_ids > 0).sum()) for batch in batches),
        "slots": sum(batch.layout.pack_ids.size for batch in batches),
        "programs": len({batch.layout.pack_ids.shape for batch in batches}),
    }


def tune_ours(weights: Path, file: Path) -> dict[str, Any]:
    """Times updates of `finetune`, from placing the batches on."""
    import jax

    from bert_jax.finetuning import finetune, seed_run
    from bert_jax.tasks import datasets
    from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
    from bert_jax.training.optim import OptimizerConfig
    from bert_jax.training.state import random_stream

    source = f"tsv:{file}"
    task = TaskConfig(
        family="classification",
        train=source,
        dev=source,
        text="text",
        label="label",
        labels=LABELS,
        max_length=LENGTH,
        representation="mean",
    )
    config = FineTuningConfig(
        task=task,
        training=TaskTrainingConfig(batch_size=ROWS),
        optimizer=OptimizerConfig(
            learning_rate=RATE, warmup_steps=0, bias_correction=True, max_grad_norm=CLIP
        ),
    )
    run = finetune.open_encoder(weights, config)
    dataset = datasets.encode_dataset(datasets.load_dataset(task), task, run.tokenizer)
    setup = finetune.make_setup(config, dataset, run)
    rows, key = dataset.splits["train"].rows, random_stream(0, "dropout")
    state = setup.first_state(random_stream(0, "init"), setup.encoder)

    def updates() -> None:
        nonlocal state
        for step in range(UPDATES):
            some = rows[step * ROWS : (step + 1) * ROWS]
            batch = seed_run.place_batch(setup, some, ROWS, setup.length)
            state, metrics = setup.update(state, batch, key)
        jax.block_until_ready((state, metrics))

    with jax.set_mesh(setup.mesh):
        measured = timed(updates, count=UPDATES)
    tokens = sum(len(row.inputs[0].token_ids) for row in rows) / UPDATES
    return measured | {"tokens": tokens, "slots": ROWS * setup.length}


# ---- torch -------------------------------------------------------------------------------------


def embed_torch(weights: Path, texts: list[str], vectors: Path) -> dict[str, Any]:
    """Times the mean of the last layer's outputs, for batches of texts of similar length."""
    import transformers  # pyright: ignore[reportMissingImports]

    torch = import_torch()
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    model = transformers.BertModel.from_pretrained(
        weights, add_pooling_layer=False, attn_implementation="sdpa"
    ).eval()
    slots: list[int] = []

    def embed() -> None:
        slots.clear()
        ids = tokenizer(texts, truncation=True, max_length=512)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found = np.zeros((len(ids), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                numbers = order[start : start + 32]
                batch = tokenizer.pad({"input_ids": [ids[i] for i in numbers]}, return_tensors="pt")
                output = model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None].to(output.dtype)
                found[numbers] = ((output * mask).sum(1) / mask.sum(1)).numpy()
                slots.append(mask.numel())
        np.save(vectors, found)

    return timed(embed) | {"slots": sum(slots)}


def tune_torch(weights: Path, file: Path) -> dict[str, Any]:
    """Times updates of the same model with the same rows, from making the tensors on."""
    import transformers  # pyright: ignore[reportMissingImports]

    torch = import_torch()
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    bert = transformers.BertModel.from_pretrained(
        weights, add_pooling_layer=False, attn_implementation="sdpa"
    )
    model = torch.nn.ModuleDict(
        {"bert": bert, "output": torch.nn.Linear(bert.config.hidden_size, len(LABELS))}
    ).train()
    dropout = torch.nn.Dropout(bert.config.hidden_dropout_prob)
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not name.endswith(NO_DECAY)].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": of, "weight_decay": DECAY * decays} for decays, of in groups.items()],
        lr=RATE,
        eps=1e-6,
        fused=True,
    )
    lines = list(csv.DictReader(file.open(), delimiter="\t", quoting=csv.QUOTE_NONE))
    options = {"truncation": True, "max_length": LENGTH}
    ids = tokenizer([line["text"] for line in lines], **options)["input_ids"]
    labels = [LABELS.index(line["label"]) for line in lines]
    length = -(-max(map(len, ids)) // 8) * 8  # as bert_jax pads

    def updates() -> None:
        for start in range(0, UPDATES * ROWS, ROWS):
            some = {"input_ids": ids[start : start + ROWS]}
            shape = {"padding": "max_length", "max_length": length, "return_tensors": "pt"}
            batch = tokenizer.pad(some, **shape)
            output = model["bert"](**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(output.dtype)
            mean = (output * mask).sum(1) / mask.sum(1)
            wanted = torch.tensor(labels[start : start + ROWS])
            loss = torch.nn.functional.cross_entropy(model["output"](dropout(mean)), wanted)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()

    return timed(updates, count=UPDATES) | {"slots": ROWS * length}


# ---- Rounds ------------------------------------------------------------------------------------


def run_side(side: str, kind: str, vectors: Path) -> dict[str, Any]:
    """Runs a side in a new process and returns what it measured."""
    arguments = [f"--weights={FLAGS.weights}", f"--tasks={FLAGS.tasks}", f"--vectors={vectors}"]
    result = subprocess.run(
        [sys.executable, __file__, *arguments, f"--side={side}", f"--only={kind}"]
        + ["--one_core"] * FLAGS.one_core,
        env=os.environ | (ALLOCATOR if side == "torch" else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BertJaxError(f"{kind} of {side} failed: {result.stderr[-300:]}")
    return json.loads(result.stdout.splitlines()[-1])


def one_side() -> dict[str, Any]:
    """Does the work of a side, in its own process."""
    if FLAGS.one_core:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    ours, (kind,), weights = FLAGS.side == OURS, FLAGS.only, Path(FLAGS.weights)
    if kind in EMBED:
        texts = read_texts(kind, Path(FLAGS.tasks))
        return (embed_ours if ours else embed_torch)(weights, texts, Path(FLAGS.vectors))
    if ours:  # as the command
        cpu.keep_freed_memory()
        environment.configure_jax()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "train.tsv"
        lines = (Path(FLAGS.tasks) / EMBED["sentences"][0]).read_text(encoding="utf-8")
        file.write_text("\n".join(lines.split("\n")[: 1 + UPDATES * ROWS]) + "\n")
        return (tune_ours if ours else tune_torch)(weights, file)


def compare(kind: str) -> dict[str, Any]:
    """Runs the rounds of a kind. A ratio is the seconds of torch over ours."""
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    cosines = None
    with tempfile.TemporaryDirectory() as directory:
        files = {side: Path(directory) / f"{side}.npy" for side in SIDES}
        for number in range(FLAGS.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                rounds[side].append(run_side(side, kind, files[side]))
            print(kind, {side: done[-1]["seconds"] for side, done in rounds.items()}, flush=True)
        if kind in EMBED:
            a, b = (np.load(files[side]).astype(np.float64) for side in SIDES)
            lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            cosines = float(((a * b).sum(-1) / lengths).min())
    ours, theirs = ([one["seconds"] for one in rounds[side]] for side in SIDES)
    of_rounds = [b / a for a, b in zip(ours, theirs, strict=True)]
    ratio = {
        "median": statistics.median(theirs) / statistics.median(ours),
        "min": min(of_rounds),
        "max": max(of_rounds),
        "fastest": min(theirs) / min(ours),
    }
    return {
        "one_core": FLAGS.one_core,
        "rounds": rounds,
        "ratio": ratio,
        "smallest_cosine": cosines,
    }


def main() -> None:
    """Runs the command."""
    if FLAGS.side:
        print(json.dumps(one_side()))
        return
    if not FLAGS.weights or not FLAGS.tasks:
        raise ConfigError("--weights or --tasks is missing; see the top of the program")
    import performance_page
    from performance import describe_machine

    file = performance_page.USE
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for kind in FLAGS.only or KINDS:
        results[f"{kind}, one core" if FLAGS.one_core else kind] = compare(kind)
    machine = describe_machine()
    record = {"format_version": FORMAT_VERSION, "machine": machine, "results": results}
    write_json(file, record)
    performance_page.write()


if __name__ == "__main__":
    flags.DEFINE_string("weights", None, "Directory of all-MiniLM-L6-v2.")
    flags.DEFINE_string("tasks", None, "Directory that benchmarks/task_sets.py made.")
    flags.DEFINE_list("only", [], f"Kinds of measurements: {', '.join(KINDS)}.")
    flags.DEFINE_enum("side", None, SIDES, "Runs one side; the program does it by itself.")
    flags.DEFINE_integer("rounds", 5, "Number of rounds.", lower_bound=1)
    flags.DEFINE_bool("one_core", False, "Measures CPU seconds on one core.")
    flags.DEFINE_string("vectors", None, "File for the vectors of a side.")
    command.run(main)
