"""The table of wrong inputs: each ends in one line that names the field, its value and a remedy.

The commands run in this process. Each row is a command line, or a call as in a notebook, and the
parts of the line that it must give, separated by " ... ". No row may change a file.
"""

import contextlib
import io
import json
import os
import runpy
import shlex
import shutil
import signal
import sys
import warnings
from pathlib import Path
from unittest import mock

import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

from bert_jax import command, cpu
from bert_jax.config import load_experiment, override, to_json
from bert_jax.errors import BertJaxError
from bert_jax.faults import signals
from bert_jax.finetuning.finetune import finetune
from bert_jax.models.bert import BertForPretraining
from bert_jax.runs.comparison import compare
from bert_jax.runs.evaluation import evaluate_run
from bert_jax.runs.load import load_run
from bert_jax.training.checkpoint import save_params
from bert_jax.training.experiment import Experiment
from bert_jax.training.state import unboxed_params
from bert_jax.training.train import train

GOLDENS = Path(__file__).parents[1] / "goldens"

# ---- The files of the table ----------------------------------------------------------------------

EXPERIMENTS = {
    "exit_status.py": "import sys\nsys.exit(3)",
    "exit_words.py": "import sys\n\n\ndef get_config():\n    sys.exit('bye')",
    "raises.py": "def get_config():\n    return 1 / 0",
    "syntax.py": "def get_config(:",
    "no_function.py": "x = 1",
    "returns_number.py": "def get_config():\n    return 5",
    "returns_class.py": "from bert_jax import Experiment\ndef get_config():\n    return Experiment",
    "argument.py": "def get_config(size):\n    return size",
    "deep.py": "def get_config():\n    return get_config()",
    "seed_text.py": "import dataclasses, wrong_inputs_base as base\n"
    "def get_config():\n    return dataclasses.replace(base.get_config(), seed='abc')",
    "model_dict.py": "import dataclasses, wrong_inputs_base as base\n"
    "def get_config():\n    return dataclasses.replace(base.get_config(), model={'num_layers': 1})",
    "two_variants.py": "from typing import Literal\nimport wrong_inputs_base as base\n"
    "def get_config(variant: Literal['small', 'large'] = 'small'):\n    return base.get_config()",
}

SWEEPS = {
    "none": "def sweep():\n    return None",
    "number": "def sweep():\n    yield 5",
    "raises": "def sweep():\n    yield {}\n    raise ValueError('bad')",
    "exits": "import sys\ndef sweep():\n    sys.exit(1)",
    "empty": "def sweep():\n    return []",
    "argument": "def sweep(rate):\n    yield {'seed': rate}",
    "variable": "sweep = 5",
    "text": "def sweep():\n    return 'seed'",
    "one": "def sweep():\n    return {'seed': 1}",
    "key": "def sweep():\n    yield {5: 1}",
    "field": "def sweep():\n    yield {'seeds': 1}",
    "value": "def sweep():\n    yield {'seed': object()}",
    "endless": "def sweep():\n    while True:\n        yield {'seed': 1}",
    "class": "class sweep:\n    seed = 1",
    "none_field": "def sweep():\n    yield {'seed': None}",
    "nan": "def sweep():\n    yield {'optimizer.learning_rate': float('nan')}",
    "deep": "def sweep():\n    yield from sweep()",
    "zip": "def sweep_zip_a():\n    yield {'seed': 1}\ndef sweep_zip_b():\n    return [{}, {}]",
    "missing": "",
    "second": "def sweep():\n    yield {'seed': 1}\ndef sweep_rate():\n    yield 1",
    "good": "def sweep():\n    yield {'seed': 1}",
}

CONFIGS = {
    "list.json": "[1]",
    "null.json": "null",
    "text.json": '"x"',
    "number.json": "5",
    "deep.json": "[" * 100_000,
    "deep_object.json": '{"a":' * 100_000,
    "cut.json": '{"format_version": 4, "see',
    "empty.json": "",
    "no_version.json": "{}",
    "version.json": '{"format_version": 99}',
    "fields.json": '{"format_version": 4}',
    "section.json": '{"format_version": 1, "data": 5, "model": [1], "second_phase": 5}',
    "earlier.json": '{"format_version": 2, "data": {}, "model": {"dtype": "bfloat16"}, '
    '"training": 5}',
}

SETS = {
    "train.jsonl": '{"text": "good", "label": "yes"}\n{"text": "bad", "label": "no"}\n' * 4,
    "no_field.jsonl": '{"text": "good", "label": "yes"}\n{"label": "no"}\n',
    "list.jsonl": "[1]\n",
    "cut.jsonl": '{"text"\n',
    "empty.jsonl": "",
    "number.jsonl": '{"text": 5, "label": "yes"}\n',
    "label.jsonl": '{"text": "good", "label": "maybe"}\n',
    "surrogate.jsonl": '{"text": "\\ud800"}\n',
    "latin.tsv": "text\tlabel\ncaf\udce9\tyes\n",
    "cells.tsv": "text\tlabel\na\tb\tc\n",
    "returns.tsv": "text\tlabel\rgood\tyes\rbad\tno\r",
}

TASK = """
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig

def get_config():
    task = TaskConfig(
        family="classification", train="jsonl:train.jsonl", dev="jsonl:train.jsonl", max_length=16
    )
    return FineTuningConfig(task=task, mesh=MeshConfig(data=1))
"""

TOKENIZER = {
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "vocab": {},
    },
}
FOREIGN = {
    "architectures": ("config.json", {"architectures": 5}),
    "added_tokens": ("tokenizer.json", TOKENIZER | {"added_tokens": 5}),
    "added_decoder": ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
}
"""Directories of Hugging Face with a wrong file."""


def write_foreign(directory):
    """Writes the directories of `FOREIGN`, and others that lack a file or hold a damaged one."""
    for name, (file, fields) in FOREIGN.items():
        shutil.copytree(GOLDENS / "tiny_bert", directory / name)
        path = directory / name / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | fields))
    for name, file in (("deep_tokenizer", "tokenizer.json"), ("deep_config", "config.json")):
        shutil.copytree(GOLDENS / "tiny_bert", directory / name)
        (directory / name / file).write_text("[" * 100_000)
    for name, file in (("no_config", "config.json"), ("no_vocabulary", "vocab.txt")):
        shutil.copytree(GOLDENS / "tiny_bert", directory / name)
        (directory / name / file).unlink()
    shutil.copytree(GOLDENS / "tiny_bert", directory / "pointer")
    (directory / "pointer" / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
    )
    shutil.copytree(GOLDENS / "tiny_bert", directory / "headless")
    tensors = load_file(GOLDENS / "tiny_bert" / "model.safetensors")
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    save_file(encoder, directory / "headless" / "model.safetensors")


@pytest.fixture(scope="module")
def world(experiment, tmp_path_factory):
    """A directory with experiments, prepared data, weights and sets; every row runs in it."""
    directory = tmp_path_factory.mktemp("world")
    shutil.copytree(experiment.data.directory, directory / "data")
    shutil.copytree(experiment.data.directory, directory / "swapped")
    swapped = json.loads((directory / "swapped" / "tokenizer.json").read_text())
    swapped["pieces"][-2:] = swapped["pieces"][:-3:-1]
    (directory / "swapped" / "tokenizer.json").write_text(json.dumps(swapped))
    experiment = override(experiment, {"data.directory": "data"})
    stored = json.dumps(to_json(experiment))
    base = (
        "import json\nfrom bert_jax.config import from_json\n"
        "from bert_jax.training.experiment import Experiment\n"
        f"def get_config():\n    return from_json(Experiment, json.loads({stored!r}))\n"
    )
    (directory / "wrong_inputs_base.py").write_text(base)
    (directory / "mine.py").write_text(base)
    for name, text in EXPERIMENTS.items():
        (directory / name).write_text(text + "\n")
    for name, text in SWEEPS.items():
        (directory / f"sweep_{name}.py").write_text(f"{base}\n{text}\n")
    for name, text in {**CONFIGS, **SETS}.items():
        (directory / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    (directory / "task.py").write_text(TASK)
    (directory / "corpus.txt").write_text("\n\n".join(f"A text of number {i}." for i in range(400)))
    (directory / "latin.txt").write_bytes(b"good\n\n\xe4\n")
    for name in ("nothing", "cut"):
        (directory / name).mkdir()
    (directory / "cut" / "config.json").write_text(CONFIGS["cut.json"])
    (directory / "begun").mkdir()
    begun = override(experiment, {"optimizer.beta2": 0.98})
    (directory / "begun" / "config.json").write_text(json.dumps(to_json(begun)))
    params = jax.jit(lambda: unboxed_params(BertForPretraining(experiment.model), 0))()
    tokenizer = json.loads((directory / "data" / "tokenizer.json").read_text())
    save_params(
        directory / "weights",
        params,
        model=experiment.model,
        experiment=experiment,
        tokenizer=tokenizer,
    )
    shutil.copytree(GOLDENS / "tiny_bert", directory / "tiny_bert")
    write_foreign(directory)
    return directory


def snapshot(directory):
    """Returns the size and the time of every file, and the names of all directories."""
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        found[path] = None if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


# ---- Commands in this process --------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands():
    """For each command, the arguments of its call of `command.run`, and its flags."""
    found = {}

    def load(name):
        if name not in found:
            before = set(flags.FLAGS)
            module = "bert_jax.config.__main__" if name == "config" else f"bert_jax.{name}"
            with (
                mock.patch.object(command, "run") as run,
                mock.patch.object(signal, "signal"),  # predict ends at a closed pipe
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # the module is perhaps imported already
                runpy.run_module(module, run_name="__main__")
            own = {flag: flags.FLAGS[flag] for flag in set(flags.FLAGS) - before}
            for flag in own:
                delattr(flags.FLAGS, flag)
            found[name] = (run.call_args, own)
        return found[name]

    return load


@contextlib.contextmanager
def flags_restored(own):
    """Restores the values of all flags at the end, and removes those of `own`.

    Libraries that are imported meanwhile keep the flags that they define.
    """
    before = flagsaver.save_flag_values()
    yield
    for name in own:
        delattr(flags.FLAGS, name)
    flagsaver.restore_flag_values(flagsaver.save_flag_values() | before)


def run_command(commands, words, text=b""):
    """Runs a command line in this process. Returns the exit status."""
    name, *arguments = shlex.split(words)
    (given, options), own = commands(name)

    def start(main, flags_parser):
        main(flags_parser([name, *arguments]))

    with contextlib.ExitStack() as stack:
        stack.enter_context(flags_restored(own))
        for flag in own:
            flags.FLAGS[flag] = own[flag].__deepcopy__({})
        for target, attribute, value in (
            (command.app, "run", start),
            (signals, "raise_on_signals", lambda: None),
            (cpu, "keep_freed_memory", lambda: None),
            (sys, "stdin", io.TextIOWrapper(io.BytesIO(text))),
        ):
            stack.enter_context(mock.patch.object(target, attribute, value))
        stack.enter_context(mock.patch.dict(os.environ))
        with pytest.raises(SystemExit) as ended:
            command.run(*given, **options)
    return ended.value.code


def assert_says(line, said):
    """Checks that a line has the parts of `said` in their order, and says what is accepted."""
    position = 0
    for part in said.split(" ... "):
        position = line.find(part, position)
        assert position >= 0, f"{part!r} is not in, or not in this order in: {line}"
        position += len(part)
    assert "accepted" in line or "did you mean" in line, line


# ---- The table -----------------------------------------------------------------------------------

PRETRAIN = "pretrain --experiment=mine.py --workdir=new"
NEW = "new --language=fi"
FINETUNE = "finetune --experiment=task.py --checkpoint=tiny_bert --workdir=new"
PREPARE = "prepare --experiment=mine.py --corpus=text:corpus.txt --output=new --workers=1"
EVALUATE = "evaluate --run=weights --data=data"
PREDICT = "predict --run=weights"
CONVERT = "convert --source=tiny_bert --output=new"
BENCH = "bench --experiment=mine.py"
PLAN = "plan --experiment=mine.py --topology=v5e:2x4"

ROWS = {
    # ---- Command lines ----
    "pretrain": [
        ("", "--experiment is missing; accepted: FILE.py"),
        ("--workdir=new", "--experiment is missing; accepted: FILE.py"),
        ("--experimnt=mine.py", "'experimnt' ... accepted"),
        ("--experiment=mine.py", "--workdir is missing; accepted: a directory"),
        ("--experiment=mine.py --workdir=new seed=3", "'seed=3'; did you mean --set seed=3; "),
        ("--experiment=mine.py --workdir=new --set=seed", "--set seed: accepted: --set path.to"),
        ("--experiment=nowhere.py --workdir=new", "no experiment file 'nowhere.py'; did you mean"),
        ("--experiment=mine.py:base --workdir=new", "mine.py names no variants, got 'base'"),
        (
            "--experiment=two_variants.py:big --workdir=new",
            "no variant 'big'; accepted: small, large",
        ),
        ("--experiment=nothing --workdir=new", "no experiment file 'nothing'; accepted"),
        (
            "--experiment=begun --workdir=new",
            "begun is a directory; did you mean begun/config.json",
        ),
        ("--experiment=corpus.txt --workdir=new", "corpus.txt is not a Python file; accepted"),
        (
            "--experiment=task.py --workdir=new",
            "task.py returns FineTuningConfig; accepted: Experiment",
        ),
        ("--experiment=exit_status.py --workdir=new", "exit_status.py:2: SystemExit: 3; accepted"),
        ("--experiment=exit_words.py --workdir=new", "exit_words.py:5: SystemExit: bye; accepted"),
        ("--experiment=raises.py --workdir=new", "raises.py:2: ZeroDivisionError ... accepted"),
        ("--experiment=syntax.py --workdir=new", "syntax.py:1: SyntaxError ... accepted"),
        ("--experiment=no_function.py --workdir=new", "no_function.py defines no get_config()"),
        (
            "--experiment=returns_number.py --workdir=new",
            "get_config() returns 5; accepted: an Experiment",
        ),
        ("--experiment=returns_class.py --workdir=new", "get_config() returns <class ... accepted"),
        (
            "--experiment=argument.py --workdir=new",
            "argument.py: TypeError ... 'size' ... accepted",
        ),
        ("--experiment=deep.py --workdir=new", "deep.py:2: RecursionError ... accepted"),
        ("--experiment=seed_text.py --workdir=new", "seed is 'abc'; accepted: int"),
        (
            "--experiment=model_dict.py --workdir=new",
            "model is {'num_layers': 1}; accepted: BertConfig",
        ),
        ("--experiment=list.json --workdir=new", "list.json: ... is [1]; accepted: a JSON object"),
        ("--experiment=null.json --workdir=new", "null.json: ... is None; accepted: a JSON object"),
        ("--experiment=text.json --workdir=new", "text.json: ... is 'x'; accepted: a JSON object"),
        (
            "--experiment=number.json --workdir=new",
            "number.json: ... is 5; accepted: a JSON object",
        ),
        ("--experiment=deep.json --workdir=new", "deep.json: ... recursion ... accepted"),
        ("--experiment=deep_object.json --workdir=new", "deep_object.json: ... accepted"),
        ("--experiment=cut.json --workdir=new", "cut.json: ... line 1 column ... accepted"),
        ("--experiment=empty.json --workdir=new", "empty.json: ... line 1 column 1 ... accepted"),
        ("--experiment=nowhere.json --workdir=new", "nowhere.json ... accepted: a file, the conf"),
        ("--experiment=no_version.json --workdir=new", "format_version None; accepted: 1 to"),
        ("--experiment=version.json --workdir=new", "format_version 99; accepted: 1 to"),
        ("--experiment=fields.json --workdir=new", "data is missing; accepted: DataConfig"),
        ("--experiment=section.json --workdir=new", "second_phase is 5; accepted: a JSON object"),
        ("--experiment=earlier.json --workdir=new", "data.directory is missing; accepted: str"),
    ],
    # ---- Fields of the experiment ----
    PRETRAIN: [
        ("--set=seed=abc", "seed is 'abc'; accepted: int, 0 to 4294967295"),
        ("--set=seed=-1", "seed is -1; accepted: 0 to 4294967295"),
        ("--set=seed=4294967296", "seed is 4294967296; accepted: 0 to 4294967295"),
        ("--set=sed=1", "unknown field 'sed'; did you mean seed"),
        ("--set=model.num_layer=3", "'model.num_layer'; did you mean model.num_layers"),
        ("--set=batch_size=8", "'batch_size'; did you mean data.batch_size, evaluation.batch_size"),
        ("--set=learning_rate=1e-3", "'learning_rate'; did you mean optimizer.learning_rate"),
        ("--set=num_layers=3", "'num_layers'; did you mean model.num_layers"),
        ("--set=hidden=3", "'hidden'; did you mean model.hidden_size"),
        ("--set=lr=1e-3", "'lr'; did you mean optimizer.learning_rate"),
        ("--set=optimizer.lr=1e-3", "'optimizer.lr'; did you mean optimizer.learning_rate"),
        ("--set=model.learning_rate=1", "'model.learning_rate'; did you mean optimizer.learning"),
        ("--set=optimiser.beta2=0.98", "'optimiser.beta2'; did you mean optimizer.beta2"),
        ("--set=xyz=5", "'xyz'; accepted: seed, data, model"),
        (
            "--optimizer.learning_rate=1e-3",
            "flag 'optimizer.learning_rate'; accepted: --set optimizer.learning_rate=VALUE",
        ),
        ("--set=seed.top=1", "unknown field 'seed.top' ... accepted"),
        (
            "--set=optimizer.learning_rate=fast",
            "optimizer.learning_rate is 'fast'; accepted: float",
        ),
        ("--set=optimizer.learning_rate=0", "optimizer.learning_rate is 0; accepted: above 0"),
        ("--set=optimizer.learning_rate=NaN", "optimizer.learning_rate is nan; accepted"),
        ("--set=optimizer.learning_rate=1e400", "optimizer.learning_rate is inf; accepted: finite"),
        ("--set=optimizer.weight_decay=-1", "optimizer.weight_decay is -1; accepted: at least 0"),
        ("--set=optimizer.name=sgd", "optimizer.name is 'sgd'; accepted: adamw, lamb"),
        ("--set=optimizer.beta1=1", "optimizer.beta1 is 1; accepted: at least 0, below 1"),
        ("--set=optimizer.warmup_start=5", "optimizer.warmup_start is 5; accepted: -2"),
        ("--set=model.dtype=float16", "model.dtype is 'float16'; accepted: float32, bfloat16"),
        ("--set=model.dropout=1", "model.dropout is 1; accepted: at least 0, below 1"),
        ("--set=model.num_heads=5", "model.hidden_size is 32; accepted ... model.num_heads 5"),
        ("--set=model.num_heads=0", "model.num_heads is 0; accepted: 1 to 2147483647"),
        ("--set=model.hidden_size=2.5", "model.hidden_size is 2.5; accepted: int, 1 to"),
        ("--set=model.hidden_size=true", "model.hidden_size is True; accepted: int, 1 to"),
        ("--set=model.activation=elu", "model.activation is 'elu'; accepted: gelu_erf"),
        ("--set=model.attention=splash", "model.attention_dropout is 0.1; accepted ... 0"),
        (
            "--set=model.max_positions=16",
            "data.sequence_length is 32; accepted ... positions 16",
        ),
        ("--set=model.num_segments=1", "model.num_segments is 1; accepted: 2 ... data.pairs=none"),
        ("--set=model.vocab_size=600", "data/passport.json ... vocab_size 500, not 600; accepted"),
        ("--set=model.hidden_size=1048576", "GiB ... model.hidden_size (1048576) ... "),
        ("--set=model.num_layers=1000000", "GiB ... model.num_layers (1000000)"),
        (
            "--set=data.batch_size=1000000000",
            "a batch ... GiB ... accepted: smaller data.batch_size",
        ),
        ("--set=data.batch_size=1e9", "a batch ... GiB ... accepted: smaller data.batch_size"),
        (
            "--set=training.steps=4294967296",
            "training.steps is 4294967296; accepted: 1 to 2147483647",
        ),
        ("--set=training.steps=1e29", "training.steps is 1e+29; accepted: int, 1 to 2147483647"),
        ("--set=training.steps=2", "optimizer.warmup_steps is 2; accepted ... training.steps 2"),
        ("--set=training.steps=0", "training.steps is 0; accepted: 1 to 2147483647"),
        ("--set=training.microbatches=3", "data.batch_size is 16 ... accepted ... microbatches 3"),
        ("--set=training.gradient_dtype=bfloat16", "gradient_dtype is 'bfloat16'; accepted"),
        ("--set=training.init_from=nope", "training.init_from is 'nope': ... accepted"),
        ("--set=training.init_from=5", "training.init_from is '5': ... accepted"),
        ("--set=training.init_from=nothing", "training.init_from is 'nothing': ... accepted"),
        (
            "--set=training.init_from=tiny_bert",
            "training.init_from=tiny_bert: vocab_size is 60;",
        ),
        (
            "--set=training.on_damaged_checkpoint=go",
            "on_damaged_checkpoint is 'go'; accepted: previous, stop",
        ),
        (
            "--set=data.batch_size=20 --set=mesh.data=8",
            "data.batch_size is 20 ... accepted: data.batch_size=16 ... or a mesh with",
        ),
        ("--set=evaluation.probe=nope.py", "evaluation.probe is 'nope.py': no experiment file"),
        (
            "--set=evaluation.probe=mine.py",
            "evaluation.probe is 'mine.py': ... accepted: FineTuningConfig",
        ),
        ("--set=data.masking.max_predictions=33", "data.masking.max_predictions is 33; accepted"),
        ("--set=data.masking.max_predictions=1", "data.masking.max_predictions is 1 ... accepted"),
        ("--set=data.masking.rate=1.5", "masking.rate is 1.5; accepted"),
        ("--set=data.masking.split=[1,1,1]", "masking.split is (1.0, 1.0, 1.0); accepted: three"),
        ("--set=data.masking.unit=letter", "data.masking.unit is 'letter'; accepted"),
        ("--set=data.language=dee", "data.language is 'dee'; did you mean de"),
        ("--set=data.language=de", "data.language 'en', not 'de'; accepted: the same value"),
        ("--set=data.strip_accents=yes", "data.strip_accents is 'yes'; accepted: bool or null"),
        ("--set=data.pairs=none", "objective.next_sentence is True ... accepted: False"),
        ("--set=data.sequence_length=4", "data.sequence_length is 4; accepted: at least 5"),
        ("--set=data.dupe_factor=2", "data.dupe_factor 1, not 2; accepted: the same value"),
        ("--set=data.held_out_fraction=1", "data.held_out_fraction is 1; accepted: at least 0"),
        ("--set=data.directory=gs://bucket", "data.directory is 'gs://bucket'; accepted: a local"),
        ("--set=data.directory=nowhere", "nowhere holds no prepared data ... accepted"),
        (
            "--set=data.directory=nowhere --set=model.num_layers=1 --set=phases=[]",
            "nowhere holds no prepared data ... accepted ... make them with `python -m "
            "bert_jax.prepare --experiment=mine.py --set data.directory=nowhere --set 'phases=[]'`",
        ),
        (
            "--set=data.directory=swapped",
            "swapped/tokenizer.json holds vocabulary ... prepared",
        ),
        ("--set=data.directory=5", "5 holds no prepared data ... accepted"),
        ("--set=seed=\udcff", "seed is '\\udcff'; accepted: int"),
        ("--set=data=5", "data is 5; accepted: DataConfig"),
        ("--set='data={\"batch_sise\": 1}'", "'data.batch_sise'; did you mean ... batch_size"),
        ("--set=data={", "data is '{', which is not JSON ... accepted: a JSON object"),
        ("--set=mesh.data=9", "mesh is 9 x 1 x 1 ... 8 devices; accepted"),
        ("--set=mesh.data=0", "mesh is 0 x 1 x 1 ... accepted: sizes of at least 1"),
        (
            "--set=mesh.tensor=3",
            "size 512 ... 3 parts ... accepted: mesh.tensor=1 or another divisor of 512",
        ),
        ("--set=sharding.embed=rows", "sharding.embed is 'rows'; accepted: data, fsdp, tensor"),
        ("--set=phases=5", "phases is 5; accepted: a list of PhaseConfig"),
        ("--set='phases=[{\"steps\": 20}]'", "phases have 20 steps ... training.steps 12"),
        ("--set=phases.0.steps=5", "unknown field 'phases.0.steps': phases is empty; accepted"),
        (
            '--set=\'phases=[{"steps": 4, "changes": {"model.num_layers": 1}}]\'',
            "phase 2 of 2: model.num_layers cannot change; accepted: data.directory",
        ),
        ("--profile_steps=5", "--profile_steps is '5'; accepted: FIRST:LAST"),
        ("--profile_steps=9:3", "--profile_steps is '9:3'; accepted: FIRST:LAST"),
        ("--profile_steps=1:100", "--profile_steps is '1:100'; accepted ... (12)"),
        ("--coordinator=nosuchhost", "--coordinator=nosuchhost, ... accepted: all three or none"),
        (
            "--coordinator=nosuchhost --process_count=2 --process_index=0",
            "--coordinator is 'nosuchhost'; accepted: HOST:PORT",
        ),
        (
            "--coordinator=host:port --process_count=2 --process_index=0",
            "--coordinator is 'host:port'; accepted: HOST:PORT",
        ),
        (
            "--coordinator=host:1 --process_count=2 --process_index=2",
            "--process_index is 2; accepted: 0 to 1",
        ),
        ("--process_count=two", "--process_count ... 'two' ... accepted"),
        ("--process_count=2", "--process_count=2 ... accepted: all three or none"),
        ("--cluster", "--cluster: jax detects no cluster here; accepted: a process under Slurm"),
    ],
    "pretrain --experiment=mine.py": [
        ("--workdir=data", "data lies in the prepared data of ... accepted: another --workdir"),
        (
            "--workdir=data/run",
            "data/run lies in the prepared data of ... accepted: another --workdir",
        ),
        (
            "--workdir=data/a/b",
            "data/a/b lies in the prepared data of ... accepted: another --workdir",
        ),
        ("--workdir=mine.py", "mine.py ... accepted: a directory"),
        ("--workdir=s3://bucket/run", "--workdir is 's3://bucket/run'; accepted: a local path"),
        ("--workdir=new --set=data.directory=hdfs://a/b", "data.directory is 'hdfs://a/b'; acc"),
        ("--workdir=new --set=training.init_from=s3://a/b", "training.init_from is 's3://a/b'; a"),
        ("--workdir=mine.py/run", "mine.py/run cannot be written ... accepted: a directory"),
        ("--workdir=/proc/run", "/proc/run cannot be written ... accepted: a directory"),
        ("--workdir=begun", "optimizer.beta2=0.98, not 0.999; accepted: the same value"),
        ("--workdir=cut", "cut/config.json: ... line 1 column ... accepted: the config.json"),
        ("--workdir=weights", "weights holds weights without a run; accepted: another --workdir"),
        ("--workdir='new/[/b]' --set=seed=x", "seed is 'x'; accepted: int"),
    ],
    # ---- Other commands ----
    "new": [
        ("--corpus=text:corpus.txt", "--language is missing; accepted: a code such as fi"),
        ("--language=fi", "--corpus is missing; accepted: the text, such as text:"),
    ],
    NEW: [
        ("--corpus=text:corpus.txt", "the file is ''; accepted: a path such as mine.py"),
        ("--corpus=text:corpus.txt new.txt", "the file is 'new.txt'; accepted: a path such as"),
        ("--corpus=text:corpus.txt 'a b.py'", "the file is 'a b.py'; accepted: a path such as"),
        ("--corpus=text:corpus.txt a.py b.py", "the file is 'a.py b.py'; accepted: a path such as"),
        ("--corpus=text:corpus.txt mine.py", "the file is 'mine.py'; accepted: a new file"),
        ("--corpus=text:corpus.txt --size=bsae new.py", "--size is 'bsae'; did you mean base"),
        ("--corpus=text:corpus.txt --language=fii new.py", "is 'fii'; did you mean fi"),
        ("--corpus=text:corpus.txt --language=finnish new.py", "is 'finnish'; did you mean fi"),
        ("--corpus=text:nowhere/*.txt new.py", "text:nowhere/*.txt' matches no file; accepted"),
        ("--corpus=text:nothing new.py", "matches a directory and no file; accepted: nothing/*"),
        ("--corpus=nowhere new.py", "corpus is 'nowhere'; accepted: text:GLOB"),
        ("--corpus=text:empty.jsonl new.py", "empty.jsonl:1 is an empty file; accepted"),
    ],
    "sweep": [
        ("", "--experiment is missing; accepted"),
        ("--experiment=sweep_good.py", "--workdir is missing; accepted: a directory for the runs"),
        ("--experiment=sweep_good.py --workdir=data/s", "data/s lies in the prepared data of"),
        ("--experiment=sweep_good.py --workdir=gs://a/b", "--workdir is 'gs://a/b'; accepted: a"),
        ("--experiment=sweep_good.py --workdir=s3://a/b", "--workdir is 's3://a/b'; accepted: a"),
        *(
            (f"--experiment=sweep_{name}.py --workdir=new", f"sweep_{name}.py{said}")
            for name, said in {
                "none": ": sweep yields None; accepted: a function",
                "number": ": sweep yields 5; accepted: a function",
                "raises": ":9: ValueError: bad; accepted",
                "exits": ":9: SystemExit: 1; accepted",
                "empty": ": sweep yields nothing; accepted: a function",
                "argument": ": TypeError: sweep() missing 1 required ... accepted",
                "variable": ": sweep yields 5; accepted: a function",
                "text": ": sweep yields 'seed'; accepted: a function",
                "one": ": sweep yields {'seed': 1}; accepted: a function",
                "key": ": sweep yields {5: 1}; accepted: a function",
                "endless": ": sweep yields more than 10000 dictionaries; accepted: a function",
                "class": ": sweep yields <experiment_sweep_class_ ... accepted: a function",
                "deep": ":8: RecursionError: ... accepted: code that raises nothing",
                "zip": ": numbers of dictionaries: sweep_zip_a 1, sweep_zip_b 2; accepted: equally",
                "missing": " has no sweep() and no sweep_*(); accepted: a function",
                "second": ": sweep_rate yields 1; accepted: a function",
            }.items()
        ),
        ("--experiment=sweep_field.py --workdir=new", "the run seeds=1: unknown field 'seeds'"),
        ("--experiment=sweep_none_field.py --workdir=new", "seed is None; accepted: int"),
        ("--experiment=sweep_nan.py --workdir=new", "learning_rate is nan; accepted"),
        ("--experiment=sweep_value.py --workdir=new", "seed is <object ... accepted: int"),
    ],
    PREPARE: [
        ("--workers=0", "--workers ... 0 ... accepted"),
        ("--workers=two", "--workers ... two ... accepted"),
        ("--on_bad_record=ask", "--on_bad_record ... ask ... accepted"),
        ("--corpus=files:nowhere/*.txt", "files:nowhere/*.txt' matches no file; accepted"),
        ("--engine=spark", "--engine ... spark ... accepted"),
        ("--corpus=", "--corpus is empty; accepted"),
        ("--output=", "--output is empty; accepted"),
        ("--vocabulary=", "--vocabulary is empty; accepted"),
        ("--beam=--runner=x", "--beam=--runner=x with --engine=pool; accepted: --engine=beam"),
        ("--output=s3://bucket/data", "--output is 's3://bucket/data'; accepted: a local path"),
        ("--vocabulary=s3://a/vocab.txt", "--vocabulary is 's3://a/vocab.txt'; accepted: a local"),
        ("--corpus=corpus.txt", "accepted: text:GLOB ... needs its format, as in text:corpus.txt"),
        ("--corpus=text:nowhere/*.txt", "text:nowhere/*.txt ... accepted"),
        ("--corpus=text:corpus.txt@0", "weight 0; accepted: a number above 0"),
        ("--corpus=text:corpus.txt,", "ends in a comma; accepted: SPEC"),
        ("--corpus=text:latin.txt", "latin.txt:3 holds byte 0xe4 at column 1; accepted: UTF-8"),
        ("--corpus=jsonl:cut.jsonl", "cut.jsonl:1 is not JSON ... accepted"),
        ("--corpus=jsonl:list.jsonl", "list.jsonl:1 ... accepted"),
        (
            "--corpus=jsonl:train.jsonl:body",
            "1 has no field 'body' ... accepted: ... as in jsonl:GLOB:text",
        ),
        ("--corpus=jsonl:surrogate.jsonl", "surrogate.jsonl:1 has no text in ... accepted"),
        ("--corpus=text:empty.jsonl", "empty.jsonl:1 is an empty file; accepted"),
        (
            "--set=data.train_shards=100000",
            "data.train_shards is 100000 ... 400 documents ... accepted",
        ),
        ("--set=data.train_shards=0", "data.train_shards is 0; accepted: 1 to 2147483647"),
        (
            "--set=data.held_out_fraction=0",
            "data.held_out_fraction is 0 ... 400 documents ... accepted",
        ),
        ("--set=data.held_out_fraction=1", "data.held_out_fraction is 1; accepted: at least 0"),
        ("--set=model.vocab_size=10", "vocab_size ... 10 ... accepted"),
        ("--set=model.vocab_size=100000", "vocab_size ... 100000 ... accepted"),
        ("--vocabulary=nowhere.txt", "nowhere.txt cannot be read ... accepted"),
        ("--vocabulary=list.json", "--vocabulary=list.json is a .json file; accepted"),
        ("--set=data.tokenizer=bpe", "data.tokenizer is 'bpe'; accepted: wordpiece, sentencepiece"),
        ("--set=data.tokenizer=file:nowhere.json", "nowhere.json cannot be read ... accepted"),
        (
            "--set=data.tokenizer=file:data/tokenizer.json",
            "is a tokenizer of bert_jax; accepted",
        ),
        ("--set=data.tokenizer=file:list.json", "list.json holds a list; accepted: a JSON object"),
        (
            "--set=data.tokenizer=file:fields.json",
            "fields.json: a tokenizer.json cannot ... accepted",
        ),
        (
            "--set=data.tokenizer=file:list.json --vocabulary=list.json",
            "--vocabulary=list.json with data.tokenizer 'file:list.json'; accepted: one of both",
        ),
        ("--vocabulary=tiny_bert/vocab.txt", "has ... pieces and model.vocab_size is 500"),
        ("--exclude=nowhere.txt", "nowhere.txt ... accepted"),
        ("--exclude=empty.jsonl", "empty.jsonl holds 0 texts ... accepted: a file with one text"),
        ("--output=mine.py", "--output=mine.py cannot be written ... accepted: a directory"),
    ],
    "prepare": [
        ("", "--experiment is missing; accepted"),
        ("--audit=", "--audit is empty; accepted"),
        ("--audit=nowhere", "nowhere holds no prepared data ... accepted"),
        ("--audit=gs://bucket/data", "--audit is 'gs://bucket/data'; accepted: a local path"),
        ("--audit=s3://bucket/data", "--audit is 's3://bucket/data'; accepted: a local path"),
        ("--audit=data --workers=2", "--audit=data with --workers; accepted: --audit alone"),
        (
            "--experiment=mine.py --output=data --set=data.dupe_factor=3",
            "dupe_factor 1 ... accepted",
        ),
    ],
    FINETUNE: [
        ("--workdir=gs://bucket/run", "--workdir is 'gs://bucket/run'; accepted: a local path"),
        ("--workdir=s3://bucket/run", "--workdir is 's3://bucket/run'; accepted: a local path"),
        ("--checkpoint=s3://a/b", "--checkpoint is 's3://a/b'; accepted: a local path"),
        ("--seeds=0", "--seeds is 0; accepted: 1 to 2147483648"),
        ("--seeds=99999999999", "--seeds is 99999999999; accepted: 1 to 2147483648"),
        ("--seeds=x", "--seeds ... 'x' ... accepted"),
        (
            "--workdir=data/fine",
            "data/fine lies in the prepared data of ... accepted: another --workdir",
        ),
        (
            "--workdir=begun",
            "begun holds config.json of something else ... accepted: another --workdir",
        ),
        ("--checkpoint=", "--checkpoint is missing; accepted: a run, or weights of"),
        ("--checkpoint=nowhere", "nowhere does not exist; accepted"),
        ("--checkpoint=nothing", "nothing is not a run ... accepted"),
        ("--experiment=mine.py", "mine.py returns Experiment; accepted: FineTuningConfig"),
        ("--set=task.family=parsing", "task.family is 'parsing'; accepted: classification"),
        (
            "--set=task.train=train.jsonl",
            "'train.jsonl' names no set ... did you mean jsonl:train.jsonl; accepted: tsv:FILE",
        ),
        ("--set=task.train=jsonl:cut.jsonl", "cut.jsonl:1 is not JSON ... accepted"),
        ("--set=task.train=squad:train.jsonl", "train.jsonl:2 is not JSON ... accepted"),
        ("--set=task.train=", "task.train is ''; accepted: data such as tsv:FILE"),
        ("--set=task.train=jsonl:nowhere.jsonl", "nowhere.jsonl does not exist; accepted"),
        ("--set=task.train=jsonl:no_field.jsonl", "no_field.jsonl:2 has no field 'text'; accepted"),
        ("--set=task.train=jsonl:list.jsonl", "list.jsonl:1 holds a list; accepted: a JSON object"),
        (
            "--set=task.train=jsonl:empty.jsonl",
            "empty.jsonl:1 holds no example; accepted: at least one",
        ),
        ("--set=task.train=jsonl:number.jsonl", "number.jsonl:1: text is 5 ... accepted: a text"),
        ("--set=task.dev=jsonl:label.jsonl", "label.jsonl:1: label is 'maybe'; accepted: no, yes"),
        ("--set=task.train=tsv:latin.tsv", "latin.tsv:2 holds byte 0xe9 at column 4; accepted"),
        ("--set=task.train=tsv:returns.tsv", "returns.tsv:1 has carriage returns and no line feed"),
        (
            "--set=task.labels=business,tech",
            'task.labels is \'business,tech\'; accepted: a list of str, such as ["a", "b"]',
        ),
        ("--set=task.train=tsv:cells.tsv", "cells.tsv:2 has 3 columns; accepted: 2, text, label"),
        ("--set=task.train=tfds:nowhere:train", "tfds:nowhere:train ... accepted"),
        ("--set=task.metric=bleu", "task.metric is 'bleu'; accepted ... for classification"),
        ("--set=task.max_length=100", "task.max_length is 100; accepted: at most 32"),
        ("--set=task.max_length=4", "task.max_length is 4; accepted: at least 8"),
        (
            "--set=task.representation=last",
            "task.representation is 'last'; accepted ... for classification",
        ),
        (
            '--set=\'task.labels=["a","a"]\'',
            "task.labels is ('a', 'a'); accepted: each label once",
        ),
        ("--set=training.epochs=0", "training.epochs is 0; accepted: 1 to 2147483647"),
        ("--set=training.batch_size=30 --set=mesh.data=8", "training.batch_size ... 30"),
        (
            "--set=training.frozen=true --set=training.from_scratch=true",
            "are true; accepted: at most one",
        ),
        ("--set=optimizer.warmup_steps=5", "optimizer.warmup_steps is 5; accepted: 0"),
    ],
    EVALUATE: [
        ("--run=", "--run is missing; accepted: a directory"),
        ("--data=", "--data is missing; accepted: a directory"),
        ("--run=nowhere", "nowhere does not exist; accepted"),
        ("--run=s3://bucket/run", "the path of a run is 's3://bucket/run'; accepted: a local"),
        ("--data=s3://bucket/data", "data is 's3://bucket/data'; accepted: a local path"),
        ("--run=nothing", "nothing is not a run ... accepted"),
        ("--run=tiny_bert", "tiny_bert holds weights without a run; accepted: a run of pretrain"),
        ("--data=nowhere", "nowhere holds no prepared data ... accepted"),
        ("--step=7", "weights has no checkpoint 7; accepted: [0]"),
        ("--step=last", "--step ... 'last' ... accepted"),
    ],
    PREDICT: [
        ("", "--task is missing; accepted: fill_mask"),
        ("--task=translate", "--task ... accepted"),
        ("--task=embed --run=", "--run is missing; accepted: a directory"),
        ("--task=embed --run=nowhere", "nowhere does not exist; accepted"),
        ("--task=embed --run=s3://bucket/run", "--run is 's3://bucket/run'; accepted: a local"),
        ("--task=embed --step=7", "weights has no checkpoint 7; accepted: [0]"),
        ("--task=embed --pooling=sum", "--pooling ... accepted"),
        (
            "--task=embed --probabilities",
            "--probabilities is not for --task=embed; accepted",
        ),
        (
            "--task=task",
            "weights was not fine-tuned; accepted: a directory that finetune",
        ),
        (
            "--task=fill_mask --pooling=cls",
            "--pooling is not for --task=fill_mask; accepted with: ",
        ),
        ("--task=fill_mask --top_k=0", "--top_k ... 0 ... accepted"),
        ("--task=embed --batch_size=0", "--batch_size ... 0 ... accepted"),
        ("--task=fill_mask", "line 1: no [MASK] in 'peace'; accepted"),
        (
            "--task=next_sentence",
            "line 1: the number of tabs is 0; accepted: two texts with a tab between them",
        ),
        ("--task=generate --length=1000000", "line 1: length is 1000000 ... accepted: at most"),
        ("--task=generate --temperature=0", "temperature is 0.0; accepted: above 0"),
        ("--task=generate --seed=-1", "seed is -1; accepted: 0 to 4294967295"),
    ],
    CONVERT: [
        ("--source=", "--source is missing; accepted"),
        ("--output=", "--output is missing; accepted"),
        ("--to=onnx", "--to ... accepted"),
        ("--output=begun", "--output=begun exists; accepted: a new or an empty directory"),
        ("--output=mine.py", "--output=mine.py exists; accepted: a new or an empty directory"),
        (
            "--allow=typo",
            "allow has typo; accepted: a tensor of these weights, the first part of its name, bert",
        ),
        ("--source=headless", "(accepted: allow masked_token_head, which"),
        ("--source=headless --allow=masked_token_head", "(accepted: allow next_sentence_head, "),
        ("--output=tiny_bert", "--output=tiny_bert exists; accepted: a new or an empty directory"),
        ("--source=nowhere", "nowhere does not exist; accepted"),
        ("--source=s3://bucket/run", "the path of a run is 's3://bucket/run'; accepted: a local"),
        ("--output=gs://bucket/out", "--output is 'gs://bucket/out'; accepted: a local path"),
        ("--output=s3://bucket/out", "--output is 's3://bucket/out'; accepted: a local path"),
        ("--source=no_config", "no_config/config.json cannot be read ... accepted"),
        ("--source=no_vocabulary", "no_vocabulary/vocab.txt cannot be read ... accepted"),
        ("--source=added_tokens", "tokenizer.json ... added_tokens ... accepted"),
        ("--source=deep_tokenizer", "deep_tokenizer/tokenizer.json is not JSON ... accepted"),
        ("--source=deep_config", "deep_config/config.json is not JSON ... accepted"),
        ("--source=pointer", "model.safetensors is a git-lfs pointer ... accepted"),
        ("--source=weights --lower_case", "weights is a run of bert_jax; accepted: no lower_case"),
        ("--source=architectures", "config.json: architectures is int; accepted: array | null"),
        ("--source=added_decoder", "added_tokens_decoder ... accepted"),
    ],
    BENCH: [
        ("--steps=0", "--steps ... 0 ... accepted"),
        ("--against=torch", "--against ... accepted"),
        (
            "--set=data.batch_size=1000000000",
            "a batch ... GiB ... accepted: smaller data.batch_size",
        ),
        ("--set=model.hidden_size=1048576", "GiB ... model.hidden_size (1048576)"),
        ("--set=mesh.data=9", "mesh is 9 x 1 x 1 ... accepted"),
    ],
    PLAN: [
        ("--topology=", "--topology is missing; accepted: CHIP:SHAPE"),
        ("--topology=v9:2x4", "--topology is 'v9:2x4'; accepted: CHIP:SHAPE"),
        ("--topology=v5e:3x5", "--topology ... v5e:3x5 ... accepted"),
        ("--time_limit=0", "--time_limit ... 0 ... accepted"),
        ("--set=seed=x", "seed is 'x'; accepted: int"),
    ],
    "plan": [
        ("--experiment=mine.py", "--topology is missing; accepted: CHIP:SHAPE"),
        ("--topology=v5e:2x2", "--experiment is missing; accepted"),
        ("--experiment=mine.py --topology=v5e:x", "--topology is 'v5e:x'; accepted: CHIP:SHAPE"),
    ],
    "config": [
        ("", "--experiment is missing; accepted"),
        ("mine.py", "unexpected argument 'mine.py'; accepted: --experiment=mine.py, or --diff"),
        ("--diff mine.py", "--diff has 1 experiments; accepted: two or more"),
        ("--diff mine.py nowhere.py", "no experiment file 'nowhere.py'; did you mean"),
        ("--diff --experiment=mine.py", "--experiment or --set is given with --diff; accepted"),
    ],
}
LINES = [(f"{start} {more}".strip(), said) for start, rows in ROWS.items() for more, said in rows]


@pytest.mark.parametrize(("words", "said"), LINES, ids=[words for words, _ in LINES])
def test_a_wrong_command_ends_in_one_line(words, said, world, commands, monkeypatch, capfd):
    monkeypatch.chdir(world)
    before = snapshot(world)
    status = run_command(commands, words, b"peace\n")
    output, errors = capfd.readouterr()
    assert (status, output) == (2, ""), errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert_says(errors, said)
    assert snapshot(world) == before


NAMES = (
    *(Experiment, Path, compare, evaluate_run, finetune, load_experiment, load_run, override),
    train,
)
CALLS = {
    "load_run('')": "the path of a run is ''; accepted",
    "load_run('nowhere')": "nowhere does not exist; accepted",
    "load_run('s3://bucket/run')": "the path of a run is 's3://bucket/run'; accepted: a local path",
    "load_run(Path('s3://bucket/run'))": "is 's3:/bucket/run'; accepted: a local path",
    "load_run('weihgts')": "weihgts does not exist; did you mean weights; accepted: a run, or",
    "load_run('nothing')": "nothing is not a run ... accepted",
    "load_run('mine.py')": "mine.py is not a run ... accepted",
    "load_run('begun')": "begun is not a run ... accepted",
    "load_run('weights', 7)": "weights has no checkpoint 7; accepted: [0]",
    "load_run('weights', allow=['bert/pooler'])": "is a run of bert_jax; accepted: no allow",
    "load_run('tiny_bert', 3)": "no checkpoint 3; accepted: 0",
    "load_run('tiny_bert', allow=['typo'])": "allow has typo; accepted: a tensor of these weights",
    "load_run('architectures')": "architectures ... accepted",
    "load_run('pointer')": "model.safetensors is a git-lfs pointer ... accepted",
    "load_run('weights', lower_case=True)": "is a run of bert_jax; accepted: no lower_case",
    "run.fill_mask('peace')": "no [MASK] in 'peace'; accepted",
    "run.fill_mask('a [MASK]', top_k=0)": "top_k is 0; accepted: at least 1",
    "run.fill_mask('a [MASK]', top_k='3')": "top_k is '3'; accepted: at least 1",
    "run.tokenize(5)": "the text is 5; accepted: a text, or a pair of texts",
    "run.attention(['a'])": "the text is ['a']; accepted: a text, or a pair of texts",
    "run.encode(['a', ('b', None)])": "text 1: the text is ('b', None); accepted: a text, or",
    "run.pseudo_log_likelihood(5)": "texts is 5; accepted: a text, a pair of texts, or a list",
    "run.bits_per_character(None)": "texts is None; accepted: a text, a pair of texts, or a list",
    "run.encode({'a': 1})": "texts is {'a': 1}; accepted: a text, a pair of texts, or a list",
    "run.attention('a').plot('0', 0)": "layer is '0'; accepted: 0 to",
    "run.batch('3')": "step is '3'; accepted: 1 to",
    "compare(run, 'weights')": "run_b is 'weights'; accepted: an opened run",
    "compare(run, run, 5)": "texts is 5; accepted: a text, or a list of texts",
    "load_run('tiny_bert', allow='cls.chain')": "allow is 'cls.chain'; accepted: a list of names",
    "run.generate('a', length='4')": "length is '4'; accepted: at least 1",
    "run.generate('a', temperature='x')": "temperature is 'x'; accepted: above 0",
    "load_run('weights/checkpoints/0')": "no checkpoints/; did you mean weights; accepted too",
    "run.fill_mask('a ' * 99 + '[MASK]')": "tokens ... accepted: at most model.max_positions, 64",
    "run.embed(5)": "texts is 5; accepted: a text, or a list of texts",
    "run.embed({'a': 1})": "texts is {'a': 1}; accepted: a text, or a list of texts",
    "run.embed({'peace'})": "texts is {'peace'}; accepted: a text, or a list of texts",
    "run.embed(b'peace')": "texts is b'peace'; accepted: a text, or a list of texts",
    "run.embed(['a', None])": "texts[1] is None; accepted: a text",
    "run.embed([('a', 'b')])": "texts[0] is ('a', 'b'); accepted: a text",
    "run.fill_mask(None)": "texts is None; accepted: a text, or a list of texts",
    "run.fill_mask(['a [MASK]', 'b'])": "text 1: no [MASK] in 'b'; accepted",
    "run.similarity('a', 5)": "b is 5; accepted: a text, or a list of texts",
    "run.next_sentence(['a', 'b'], ['c'])": "b has 1 texts; accepted: 2, as many as a",
    "run.next_sentence(['a'], 'b c')": "b is 'b c'; accepted: a list of texts, as a is",
    "run.next_sentence('a', None)": "b is None; accepted: a text, or a list of texts",
    "run.generate(5)": "prompt is 5; accepted: a text",
    "load_run(5)": "the path of a run is 5; accepted: the path of a directory",
    "load_run('~/nowhere')": "nowhere does not exist; accepted",
    "run.embed(['a', 'a ' * 99])": "text 1: ... accepted: at most model.max_positions, 64",
    "run.embed(['a'], 'sum')": "pooling ... 'sum' ... accepted",
    "run.similarity('a', 'a ' * 99)": "text 1: ... accepted: at most model.max_positions, 64",
    "run.next_sentence('', 'a')": "'' has no tokens; accepted: two texts",
    "run.next_sentence('a', 'a ' * 99)": "tokens ... accepted: at most model.max_positions, 64",
    "run.generate('a', length=0)": "length is 0; accepted: at least 1",
    "run.generate('a ' * 99)": "length is 16; accepted: at most 0, for",
    "run.generate('a', length=10**6)": "length is 1000000 ... accepted: at most",
    "run.generate('a', sweeps=0)": "sweeps is 0; accepted: at least 1",
    "run.generate('a', temperature=-1)": "temperature is -1; accepted: above 0",
    "run.generate('a', seed=2**32)": "seed is 4294967296; accepted: 0 to 4294967295",
    "run.metrics()": "weights has no metrics.jsonl; accepted: a run of pretrain",
    "Experiment(data=5, model=run.model.config, training=run.config.training)": "data is 5",
    "train(run.config, Path('data/run'))": "data/run lies in the prepared data of ... accepted",
    "train(run.config, Path('s3://bucket/run'))": "workdir is 's3:/bucket/run'; accepted: a local",
    "finetune(task, Path('tiny_bert'), Path('s3://a/b'))": "workdir is 's3:/a/b'; accepted: a",
    "train(run.config, Path('mine.py'))": "mine.py is a file; accepted: a directory for the run",
    "train(run.config, Path('begun'))": "optimizer.beta2=0.98, not 0.999; accepted",
    "train(override(run.config, {'mesh.data': 9}), Path('new'))": "mesh is 9 x 1 x 1 ... accepted",
    "train(override(run.config, {'model.num_layers': 10**7}), Path('new'))": "GiB ... accepted",
    "train(override(run.config, {'training.init_from': 'x'}), Path('new'))": "init_from=x ... acc",
    "evaluate_run(run, 'nowhere')": "nowhere holds no prepared data ... accepted",
    "evaluate_run(load_run('tiny_bert'), 'data')": "holds weights without a run; accepted",
    "finetune(task, Path('nowhere'), Path('new'))": "nowhere does not exist; accepted",
    "finetune(task, Path('tiny_bert'), Path('begun'))": "begun holds config.json ... accepted",
    "load_experiment('exit_status.py')": "exit_status.py:2: SystemExit: 3; accepted",
    "load_experiment('two_variants.py:big')": "no variant 'big'; accepted: small, large",
    "override(run.config, {'seed': -1})": "seed is -1; accepted",
    "override(run.config, {'sed': 1})": "unknown field 'sed'; did you mean seed",
}


@pytest.fixture(scope="module")
def run(world):
    return load_run(world / "weights")


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_raises_a_typed_error(call, world, run, monkeypatch):
    monkeypatch.chdir(world)
    before = snapshot(world)
    names = {one.__name__: one for one in NAMES}
    names |= {"run": run, "task": load_experiment("task.py")}
    with pytest.raises(BertJaxError) as error:
        eval(call, names)
    assert "\n" not in str(error.value)
    assert_says(str(error.value), CALLS[call])
    assert snapshot(world) == before


def test_the_table_is_long():
    assert len(LINES) + len(CALLS) >= 150
