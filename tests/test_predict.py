"""`predict` answers each line at once and in order, and reports an error in one line."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import bert_jax
from bert_jax import predict
from bert_jax.config import override
from bert_jax.errors import CheckpointError, DataError
from bert_jax.runs.load import load_run

ROOT = Path(bert_jax.__file__).parents[1]
TEXTS = ["The president of the union.", "Peace", "The [MASK] spoke to the people."]


@pytest.fixture(scope="module")
def path(two_phase_run):
    return two_phase_run[0]


def start(*arguments, stdin=subprocess.PIPE):
    """Starts the command. It is killed after two minutes if it still waits for input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bert_jax.predict", *map(str, arguments)],
        # PYTHONUNBUFFERED would hide a missing flush.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        | {"PYTHONPATH": str(ROOT)},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    timer = threading.Timer(120, process.kill)
    timer.daemon = True
    timer.start()
    return process


def test_embeddings_are_printed_before_the_input_ends(path):
    """The first two answers are read before the third line is written. The fourth line is wrong."""
    process = start(f"--run={path}", "--task=embed", "--batch_size=2", "--pooling=max")
    process.stdin.write("".join(f"{text}\r\n" for text in TEXTS[:2]).encode())
    process.stdin.flush()
    first = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert process.poll() is None
    output, errors = process.communicate(f"{TEXTS[2]}\n \n{TEXTS[0]}\n".encode())
    # The lines before the wrong line are answered, although their batch is not full.
    found = [*first, *map(json.loads, output.decode().splitlines())]
    assert process.returncode == 2
    assert errors == b"error: line 4: is blank; accepted: a text in every line\n"
    vectors = np.array([answer["embedding"] for answer in found], np.float32)
    # Batches of other shapes: float32 rounding of numbers of order 1.
    np.testing.assert_allclose(vectors, load_run(path).embed(TEXTS, "max"), atol=1e-5)


def test_the_command_ends_silently_if_its_reader_closes(path):
    """A line from a terminal is answered immediately; the reader closes after the first line."""
    keyboard, terminal = os.openpty()
    options = ("--task=generate", "--seed=5", "--length=3", "--sweeps=1")
    process = start(f"--run={path}", *options, stdin=terminal)
    os.write(keyboard, b"The\n")
    expected = load_run(path).generate("The", seed=5, length=3, sweeps=1)
    assert json.loads(process.stdout.readline()) == {"text": expected}
    process.stdout.close()
    os.write(keyboard, b"peace\n" * 3)
    assert process.wait(60) == -signal.SIGPIPE
    hint = b"Type a text, then Enter for the answer. Ctrl-D ends the command.\n"
    assert process.stderr.read() == hint
    os.close(keyboard)
    os.close(terminal)


def test_help_shows_the_flags_of_every_task():
    output, _ = start("--help").communicate()
    source = (ROOT / "bert_jax" / "predict.py").read_text(encoding="utf-8")
    purpose, _, flags_shown = output.decode().partition("\nflags:")
    assert purpose.split() == ast.get_docstring(ast.parse(source)).split()
    for task, names in predict.FLAGS_OF.items():
        assert f"--task={task}" in purpose or f"\n  {task} " in purpose
        assert all(f"--{name}" in flags_shown or f"--[no]{name}" in flags_shown for name in names)


# ---- In process --------------------------------------------------------------------------------


def answers(run, name, lines, **options):
    task = predict.make_task(run, name, options)
    encoded = predict.encoded_lines([line.encode() for line in lines], task)
    return list(task.answer(list(encoded)))


def test_answers_equal_those_of_the_run(path):
    run = load_run(path)
    pair, same = f"{TEXTS[0]}\t{TEXTS[1]}", f"{TEXTS[0]}\t{TEXTS[0]}"
    found = answers(run, "next_sentence", [pair, same])
    expected = [run.next_sentence(*TEXTS[:2]), run.next_sentence(TEXTS[0], TEXTS[0])]
    # Here and below: batches of other shapes round float32 sums differently.
    assert [answer["probability"] for answer in found] == pytest.approx(expected, rel=2e-5)
    found = answers(run, "similarity", [pair, same], pooling="cls")
    expected = [run.similarity(*TEXTS[:2], "cls"), 1]
    assert [answer["similarity"] for answer in found] == pytest.approx(expected, abs=5e-6)
    (filled,) = answers(run, "fill_mask", [TEXTS[2]], top_k=2)
    (fillings,) = run.fill_mask(TEXTS[2], top_k=2)
    assert filled == {"fillings": [[filling._asdict() for filling in fillings]]}


def test_an_untrained_head_is_refused_before_a_line_is_read(path):
    run = load_run(path)
    run = dataclasses.replace(run, config=override(run.config, {"objective.next_sentence": False}))
    for name, options in (("next_sentence", {}), ("embed", {"pooling": "pooled"})):
        with pytest.raises(CheckpointError, match="objective.next_sentence False"):
            predict.make_task(run, name, options)
    predict.make_task(run, "embed", {"pooling": "cls"})


@pytest.mark.parametrize(
    ("pair", "line", "said"),
    [
        (False, b"\n", "is blank"),
        (False, b" \t \n", "is blank"),
        (False, b"a\tb\n", "the number of tabs is 1; accepted: a text without"),
        (True, b"a\n", "the number of tabs is 0; accepted: two texts"),
        (True, b"a\tb\tc\n", "the number of tabs is 2"),
        (True, b"a\t\n", "has a blank text beside its tab"),
        (False, b"caf\xe9\n", "not UTF-8 at byte 3"),
    ],
)
def test_the_error_names_the_number_of_a_wrong_line(pair, line, said):
    right = b"a\tb\n" if pair else "ä\n".encode()
    task = predict.Task(lambda *texts: texts, list, 1 + pair)
    lines = predict.encoded_lines([right, right, line, right], task)
    assert next(lines) == next(lines) == (("a", "b") if pair else ("ä",))
    with pytest.raises(DataError, match=f"line 3: {said}"):
        next(lines)


def test_an_encoding_error_names_the_number_of_its_line():
    def refuse(text):
        raise DataError("too long")

    with pytest.raises(DataError, match="line 1: too long"):
        next(predict.encoded_lines([b"a\n"], predict.Task(refuse, list)))


def test_a_batch_reads_no_line_of_the_next_batch():
    read = []

    def lines():
        for number in range(7):
            read.append(number)
            yield number
        raise DataError("line 8")

    batches = predict.batches(lines(), 3)
    assert next(batches) == [0, 1, 2] and read == [0, 1, 2]
    assert next(batches) == [3, 4, 5] and next(batches) == [6]
    with pytest.raises(DataError, match="line 8"):
        next(batches)
