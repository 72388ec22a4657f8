r"""Answers each line of standard input with a line of JSON, using a trained model.

  python -m bert_jax.predict --run=runs/base --task=fill_mask < texts.txt > fillings.jsonl
  python -m bert_jax.predict --run=bert-base-uncased --task=embed --pooling=cls < texts.txt
  printf 'It rained.\tThe streets were wet.\n' |
    python -m bert_jax.predict --run=runs/base --task=next_sentence
  echo 'The president of' | python -m bert_jax.predict --run=runs/base --task=generate --seed=1
  python -m bert_jax.predict --run=FINETUNE_DIR --task=task < texts.txt > labels.jsonl

Each task expects these lines and gives these answers (default values are in parentheses):

  fill_mask      a text with [MASK]  {"fillings": [[{"piece": "rain", "probability": 0.3}, ...]]}:
                                     the --top_k (5) most probable pieces for each [MASK]
  embed          a text              {"embedding": [...]}: a vector by --pooling (mean)
  next_sentence  A, a tab, B         {"probability": 0.9}: the probability that B follows A
  similarity     A, a tab, B         {"similarity": 0.8}: cosine of the two embeddings
  generate       a prompt            {"text": "..."}: the prompt and --length (16) more pieces,
                                     drawn with --seed, --temperature, --top_k (100), --sweeps
  task           the texts of the    the prediction of a model that finetune made. A directory with
                 fine-tuned task,    several seeds opens the seed that is best on dev. By family:
                 separated by tabs   {"label": "good", "probability": 0.9}, with --probabilities
                                     also {"probabilities": {"good": 0.9, "bad": 0.1}};
                                     {"value": 3.5} (regression); {"tags": [{"text": "Bonn",
                                     "start": 0, "end": 4, "tag": "B-LOC", "probability": 0.9}]};
                                     {"answer": "1989", "start": 5, "end": 9, "probability": 0.9}

For `task`, a line that begins with { is a record in JSON: its keys are the fields of the task, or
`question` and `context`, and the tokens of a tagging task may be a list. A text is split into
tokens at spaces and punctuation marks.

Input is UTF-8 with any number of lines. The command reads --batch_size lines and writes their
answers before it reads more. From a keyboard, or for `generate`, it reads one line at a time. A
wrong line, such as a blank line, ends the command with status 2; the lines before it are answered.
Without --truncate, a line with more tokens than the model has positions is also wrong; --task=task
cuts it as the fine-tuning did.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from absl import flags
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from bert_jax import command, environment
from bert_jax.config.paths import open_path
from bert_jax.errors import ConfigError, DataError, located
from bert_jax.faults.memory import explain_lack_of_memory
from bert_jax.files import naming, parse_json
from bert_jax.models.config import Pooling

if TYPE_CHECKING:  # importing it imports jax; a command does so in main()
    from bert_jax.runs.run import Run

FLAGS = flags.FLAGS

FLAGS_OF = {
    "fill_mask": ("top_k", "truncate"),
    "embed": ("pooling", "truncate"),
    "next_sentence": ("truncate",),
    "similarity": ("pooling", "truncate"),
    "generate": ("length", "seed", "temperature", "top_k", "sweeps"),
    "task": ("probabilities",),
}
"""Flags of each task, except the flags that all tasks have."""


class Task(NamedTuple):
    """The two functions of a task: one encodes a line, the other answers a list of lines."""

    encode: Callable[..., Any]
    """Encodes the texts of one line for `answer`; raises DataError."""
    answer: Callable[[list[Any]], Iterable[dict[str, Any]]]
    fields: int = 1
    """Number of texts in a line."""
    records: bool = False
    """Whether a line that begins with { is a record in JSON, which is the argument of `encode`."""


def main() -> None:
    environment.configure_jax()
    path, name_of_task = command.required("run"), command.required("task", ", ".join(FLAGS_OF))
    for name in sorted({name for names in FLAGS_OF.values() for name in names}):
        if FLAGS[name].present and name not in FLAGS_OF[name_of_task]:
            users = ", ".join(task for task, names in FLAGS_OF.items() if name in names)
            raise ConfigError(f"--{name} is not for --task={name_of_task}; accepted with: {users}")
    from bert_jax.interop.names import OPTIONAL_PARTS
    from bert_jax.runs.fine_tuned import is_run
    from bert_jax.runs.load import load_run

    # make_task checks for the parts that the task needs.
    allow = () if is_run(open_path(path, name="--run")) else OPTIONAL_PARTS
    run = load_run(path, command.step(FLAGS.step), allow=allow)
    given = {name: FLAGS[name].value for name in FLAGS_OF[name_of_task]}
    options = {name: value for name, value in given.items() if value is not None}
    task = make_task(run, name_of_task, options)
    size = 1 if sys.stdin.isatty() or name_of_task == "generate" else FLAGS.batch_size
    if sys.stdin.isatty():
        words = "texts with tabs between them" if task.fields > 1 else "a text"
        print(f"Type {words}, then Enter for the answer. Ctrl-D ends the command.", file=sys.stderr)
    lines = encoded_lines(sys.stdin.buffer, task)
    console = environment.plain_console(stderr=True)
    hidden = not console.is_terminal or sys.stdout.isatty()
    columns = (TextColumn("{task.completed:,} lines"), TimeElapsedColumn())
    with (
        explain_lack_of_memory(batch_size=size),
        Progress(*columns, console=console, disable=hidden) as progress,
    ):
        bar = progress.add_task("", total=None)
        for batch in batches(lines, size):
            for answer in task.answer(batch):
                line = json.dumps(answer, ensure_ascii=False, allow_nan=False)
                with naming(command.STDOUT):
                    print(line)
            with naming(command.STDOUT):
                sys.stdout.flush()
            progress.advance(bar, len(batch))


def make_task(run: "Run", name: str, options: dict[str, Any]) -> Task:
    """Returns the task `name` for a run. `options` maps the names of the task's flags to values.

    Raises:
      CheckpointError: the run lacks a part that the task needs.
    """
    if name == "task":
        return _fine_tuned_task(run, **options)
    from bert_jax.runs import inference

    model = run.text_model
    pooling, truncate = options.get("pooling", "mean"), options.get("truncate", False)

    encode = partial(inference.encode_text, model, truncate=truncate)

    def fillings(pairs: list[Any]) -> Iterable[dict[str, Any]]:
        for rows in inference.fill_mask(model, pairs, top_k=options.get("top_k", 5)):
            yield {"fillings": [[filling._asdict() for filling in row] for row in rows]}

    def embeddings(pairs: list[Any]) -> Iterable[dict[str, Any]]:
        for vector in inference.embed(model, pairs, pooling=pooling):
            # Writes the shortest decimal that gives the same float32 number.
            yield {"embedding": [float(str(value)) for value in vector]}

    def probabilities(pairs: list[Any]) -> Iterable[dict[str, Any]]:
        return ({"probability": float(p)} for p in inference.next_sentence(model, pairs))

    def similarities(twos: list[Any]) -> Iterable[dict[str, Any]]:
        vectors = inference.embed(model, [pair for two in twos for pair in two], pooling=pooling)
        cosines = inference.cosine(vectors[::2], vectors[1::2])
        return ({"similarity": float(cosine)} for cosine in cosines)

    heads = {"next_sentence": ("bert/pooler", "next_sentence_head")}
    heads |= dict.fromkeys(("fill_mask", "generate"), ("masked_token_head",))
    run.check_trained(*heads.get(name, ("bert/pooler",) if pooling == "pooled" else ()))
    return {
        "fill_mask": Task(partial(inference.encode_masked, model, truncate=truncate), fillings),
        "embed": Task(encode, embeddings),
        "next_sentence": Task(
            partial(inference.encode_pair, model, truncate=truncate), probabilities, fields=2
        ),
        "similarity": Task(lambda *texts: [encode(text) for text in texts], similarities, fields=2),
        "generate": Task(
            partial(run.generate, **options), lambda texts: ({"text": text} for text in texts)
        ),
    }[name]


def _fine_tuned_task(run: "Run", *, probabilities: bool = False) -> Task:
    from bert_jax.tasks import prediction
    from bert_jax.tasks.families.registry import FAMILIES

    model = run.task_model

    def encode(first: Any, *others: str) -> Any:
        return prediction.read_input(model, (first, *others) if others else first, "the input")

    answer = partial(prediction.predict, model, probabilities=probabilities)
    return Task(encode, answer, len(FAMILIES[model.task.family].fields(model.task)), records=True)


def encoded_lines(lines: Iterable[bytes], task: Task) -> Iterator[Any]:
    """Yields the encoded texts of each line; a line has `fields` texts, separated by tabs.

    Raises:
      DataError: a line is wrong; the message names its number, counted from 1.
    """
    for number, line in enumerate(lines, start=1):
        with located(f"line {number}"):
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"not UTF-8 at byte {error.start}; accepted: UTF-8") from error
            if task.records and text.startswith("{"):
                encoded = task.encode(parse_json(text, place="the record"))
            else:
                encoded = task.encode(*split_line(text, task.fields))
        yield encoded


def split_line(text: str, fields: int) -> list[str]:
    """Returns the texts of a line. Raises DataError if they are not `fields` texts, or blank."""
    texts = text.split("\t")
    if not text.strip():
        raise DataError("is blank; accepted: a text in every line")
    if len(texts) != fields:
        few = {1: "a text without tabs", 2: "two texts with a tab between them"}
        accepted = few.get(fields, f"{fields} texts with tabs between them")
        raise DataError(f"the number of tabs is {len(texts) - 1}; accepted: {accepted}")
    if not all(one.strip() for one in texts):
        raise DataError("has a blank text beside its tab; accepted: texts")
    return texts


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of `size` items. Before a DataError is raised, yields the items read so far."""
    batch = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except DataError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


if __name__ == "__main__":
    # If the reader of the output ends first, such as `head`, this process ends without a message.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    flags.DEFINE_string(
        "run",
        None,
        "A run, a fine-tuning, a converted or Hugging Face directory, or Google's bert_model.ckpt.",
    )
    flags.DEFINE_string("step", None, command.STEP_HELP)
    flags.DEFINE_enum("task", None, list(FLAGS_OF), "Task; see above.")
    flags.DEFINE_enum(
        "pooling", "mean", list(get_args(Pooling)), "Vector of a text. cls: the last layer at "
        "[CLS]. pooled: the pooler's output. mean, max: average or maximum of the last layer over "
        "the tokens. last4: average of the last four layers over the tokens."
    )  # fmt: skip
    flags.DEFINE_bool("truncate", False, "Cuts off the last tokens of a text that is too long.")
    flags.DEFINE_bool("probabilities", False, "Shows the probabilities of all labels.")
    flags.DEFINE_integer("top_k", None, "Pieces to show (5) or to draw from (100).", lower_bound=1)
    flags.DEFINE_integer("length", 16, "Number of pieces to generate.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of `generate`: the same seed gives the same text.")
    flags.DEFINE_float("temperature", 1.0, "Below 1, `generate` draws probable pieces more often.")
    flags.DEFINE_integer("sweeps", 8, "Number of times each piece is drawn.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Number of lines answered together.", lower_bound=1)
    command.run(main)
