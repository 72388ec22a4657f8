"""`load_run` opens what `train` wrote, and `fill_mask` answers as the model does."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax.command import load
from bert_jax.config import override
from bert_jax.data.batch import Batch
from bert_jax.data.passport import load_passport
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.training.train import train

ROOT = Path(bert_jax.__file__).parents[1]
TEXT = "The [MASK] of the United States [MASK] the Congress."


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    """The workdir of a run, and the parameters at each of its evaluations."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    seen = []

    def probe(params):
        seen.append(jax.device_get(params))
        return {"eval/probes": float(len(seen))}

    train(experiment, workdir, probes=[probe])
    return workdir, seen


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained[0])


def test_a_run_has_the_config_tokenizer_and_step_of_training(run, experiment, data_config):
    assert run.config == experiment
    assert run.tokenizer.to_json() == load_tokenizer(data_config.directory).to_json()
    assert run.step == experiment.training.steps


def test_a_run_keeps_the_passport_of_its_data(experiment, tmp_path):
    """The passport is read from the checkpoint, and kept in a directory of weights alone."""
    shutil.copytree(experiment.data.directory, tmp_path / "data")
    moved = override(experiment, {"data.directory": str(tmp_path / "data")})
    train(moved, tmp_path / "run")
    passport = load_passport(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    run = load_run(tmp_path / "run")
    assert run.passport == passport and passport["splits"]["train"]["documents"] > 10
    for to, expected in (("bert_jax", passport), ("huggingface", None)):
        (tmp_path / to).mkdir()
        save_run(run, tmp_path / to, to=to)
        assert load_run(tmp_path / to).passport == expected


def test_an_old_run_without_a_passport_can_be_opened(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints" / "12", tmp_path / "run" / "checkpoints" / "12")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12" / "passport")
    (tmp_path / "run" / "checkpoints" / "12" / "digests.json").unlink()
    assert load_run(tmp_path / "run").passport is None


@pytest.mark.parametrize(("step", "evaluation"), [(6, 0), (12, 1), (None, 1)])
def test_parameters_are_bitwise_equal_to_the_trained_state(step, evaluation, trained):
    workdir, seen = trained
    params = load_run(workdir, step).params
    assert jax.tree.structure(params) == jax.tree.structure(seen[evaluation])
    for loaded, true in zip(
        jax.tree.leaves(params), jax.tree.leaves(seen[evaluation]), strict=True
    ):
        assert loaded.dtype == true.dtype == np.float32
        assert np.asarray(loaded).tobytes() == true.tobytes()
    assert not all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, seen), strict=True))


@pytest.mark.slow
def test_a_run_with_sharded_parameters_opens_on_one_device(experiment, tmp_path):
    many = override(experiment, {"mesh.data": 2, "mesh.fsdp": 2})
    train(many, tmp_path / "run")
    for leaf in jax.tree.leaves(load_run(tmp_path / "run").params):
        assert len(leaf.devices()) == 1 and leaf.is_fully_addressable


def test_metrics_returns_the_rows_of_metrics_jsonl(run):
    assert [row["step"] for row in run.metrics()] == [2, 4, 6, 8, 10, 12]
    assert run.metrics()[-1]["eval/probes"] == 2


def test_the_rows_are_a_data_frame_where_pandas_is_installed(run, tmp_path):
    import pandas

    frame = run.metrics_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.index) == [2, 4, 6, 8, 10, 12]
    assert frame.loc[12, "eval/probes"] == 2 and frame["eval/loss"].count() == 2
    (tmp_path / "metrics.jsonl").touch()
    begun = dataclasses.replace(run, path=tmp_path)
    assert begun.metrics_frame().empty and begun.metrics_frame().index.name == "step"
    with pytest.raises(CheckpointError, match="accepted: a run of pretrain that has logged a row"):
        begun.plot_curves()


def test_a_data_frame_without_pandas_is_refused(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it was not installed
    with pytest.raises(ConfigError, match="metrics_frame needs pandas: pip install pandas"):
        run.metrics_frame()


def test_a_run_is_evaluated_as_at_the_end_of_its_training(run, experiment):
    found = run.evaluate(experiment.data.directory)
    last = run.metrics()[-1]
    assert found["mlm_loss"] == last["eval/mlm_loss"] and found["step"] == 12
    assert found["unigram_loss"] > 0
    with pytest.raises(DataError, match="nowhere"):
        run.evaluate("nowhere")


def test_two_runs_are_compared_side_by_side(run, trained, experiment, tmp_path):
    other = override(experiment, {"optimizer.learning_rate": 5e-3, "training.steps": 6})
    train(other, tmp_path / "<other>")
    found = bert_jax.compare(run, load_run(tmp_path / "<other>"), [TEXT], top_k=2)
    assert found.names == ("run", "<other>")
    assert found.config["optimizer.learning_rate"] == (1e-3, 5e-3)
    assert set(found.config) == {"optimizer.learning_rate", "training.steps"}
    loss = f"{run.metrics()[-1]['eval/mlm_loss']:.4g}"
    for shown in (repr(found), found._repr_html_()):
        for part in ("optimizer.learning_rate", "0.005", "mask 2, 2.", TEXT, loss):
            assert part in shown, part
    best = run.fill_mask(TEXT, top_k=1)[0][0]
    assert f"{best.piece} {best.probability:.3f}" in repr(found)
    assert "&lt;other&gt;" in found._repr_html_() and "<other>" not in found._repr_html_()
    ElementTree.fromstring(f"<div>{found._repr_html_()}</div>")
    axes = found.plot_curves()
    # Two curves of each run, and a baseline that both share.
    assert [len(axis.get_lines()) for axis in axes] == [5, 5, 5]
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels[0] == "run, training" and labels[-1] == "unigram"


def test_a_run_is_compared_with_its_earlier_step_and_with_foreign_weights(run, trained):
    found = bert_jax.compare(run, load_run(trained[0], 6))
    assert found.names == (f"{run.path}, step 12", f"{run.path}, step 6") and not found.config
    assert "no difference" in repr(found)
    assert bert_jax.compare(run, run).names[0].endswith("(1)")
    foreign = load_run(ROOT / "tests" / "goldens" / "tiny_bert")
    assert "updates: not known" in repr(dataclasses.replace(run, step=0))  # a copy
    found = bert_jax.compare(foreign, run, "a [MASK]", top_k=400)  # `foreign` has 60 pieces
    assert "60." in repr(found) and "61." not in repr(found)
    sizes = foreign.model.config.vocab_size, run.model.config.vocab_size
    assert sizes[0] != sizes[1] and found.config["model.vocab_size"] == sizes
    assert list(found.curves) == ["run"]
    with pytest.raises(DataError, match="compare is .*tiny_bert.*; accepted: a run with metrics"):
        bert_jax.compare(foreign, load_run(ROOT / "tests/goldens/tiny_bert")).plot_curves()


def test_a_run_is_described_in_one_line_and_in_a_table_of_a_notebook(run, trained, tmp_path):
    loss = run.metrics()[-1]["eval/loss"]
    assert repr(run) == (
        f"<Run {str(trained[0])!r}: pretrained BERT; size: 2 layers of width 32, 46,326 parameters;"
        f" vocabulary: 500 pieces (wordpiece); updates: 12; held-out loss: {loss:.3f}>"
    )
    moved = dataclasses.replace(run, path=tmp_path / "<b>a & b</b>\n")
    assert repr(moved).count("\n") == 0 and "held-out loss: not known" in repr(moved)
    table = ElementTree.fromstring(moved._repr_html_())
    cells = {row[0].text: row[1].text for row in table}
    assert cells["path"] == str(moved.path) and cells["updates"] == "12"
    assert list(cells) == ["path", "model", "size", "vocabulary", "updates", "held-out loss"]
    foreign = load_run(ROOT / "tests" / "goldens" / "tiny_bert")
    assert "BERT, converted from other weights" in repr(foreign) and "\n" not in repr(foreign)


def test_a_run_is_opened_by_a_path_that_leaves_a_directory(run, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = load_run(os.path.relpath(trained[0]))
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, run.params))


def test_opening_and_using_a_run_loads_no_data_pipeline(trained):
    code = (
        f"import sys, bert_jax\nrun = bert_jax.load_run({str(trained[0])!r})\n"
        f"assert len(run.fill_mask({TEXT!r})) == 2\nprint(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.splitlines()[-1].split())
    assert {"jax", "bert_jax.runs.load"} <= loaded
    unwanted = {"grain", "tensorflow", "tensorflow_datasets", "tensorboardX", "array_record"}
    assert not loaded & (unwanted | {"bert_jax.data.pipeline", "bert_jax.training.train"})


# ---- fill_mask --------------------------------------------------------------------------------


def test_each_mask_gets_top_k_pieces_best_first(run):
    fillings = run.fill_mask(TEXT, top_k=7)
    assert [len(row) for row in fillings] == [7, 7]
    for row in fillings:
        probabilities = [filling.probability for filling in row]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1
        assert len({filling.piece for filling in row}) == 7
        assert {filling.piece for filling in row} <= set(run.tokenizer.pieces)


def test_probabilities_of_all_pieces_sum_to_one_without_padding_rows(run):
    """The token table is padded from 500 to 512 rows; a larger `top_k` returns 500 pieces."""
    vocab_size = run.tokenizer.vocab_size
    assert run.config.model.padded_vocab_size > vocab_size
    for top_k in (vocab_size, vocab_size + 5, 10 * vocab_size):
        (row,) = run.fill_mask("the [MASK]", top_k=top_k)
        assert len(row) == vocab_size
        # 500 float32 roundings of at most 6e-8 each, relative to a sum of 1.
        assert sum(filling.probability for filling in row) == pytest.approx(1, abs=3e-5)


@pytest.mark.parametrize("separator", [True, False])
def test_a_single_text_has_a_separator_if_the_config_says_so(separator, run):
    """Compares [CLS] A [SEP] and [CLS] A with the model on rows that are built here."""
    tokenizer = run.tokenizer
    before, after = tokenizer.encode("The president of the"), tokenizer.encode("in Congress.")
    ids = [tokenizer.cls_id, *before, tokenizer.mask_id, *after]
    ids += [tokenizer.sep_id] if separator else []
    row = np.array([ids], np.int32)
    position = np.array([[1 + len(before)]], np.int32)
    one = np.ones((1, 1), np.float32)
    batch = Batch(
        token_ids=row,
        segment_ids=np.zeros_like(row),
        pack_ids=np.ones_like(row),
        mask_positions=position,
        mask_labels=position * 0,
        mask_weights=one,
        cls_positions=position * 0,
        pair_labels=position * 0,
        pair_weights=one * 0,
    )
    logits = run.model.apply({"params": run.params}, batch).token_logits[0, 0]
    expected = np.asarray(jax.nn.softmax(logits))

    changed = override(run.config, {"data.single_text_separator": separator})
    run = dataclasses.replace(run, config=changed)
    (fillings,) = run.fill_mask("The president of the [MASK] in Congress.", top_k=20)
    for piece, probability in fillings:
        # fill_mask pads the row to 32, which rounds sums differently. One [SEP] more or less moves
        # some probabilities by 1e-4, and the last assertion tells that from rounding.
        true = expected[tokenizer.pieces.index(piece)]
        assert probability == pytest.approx(true, rel=2e-5)
    other = override(run.config, {"data.single_text_separator": not separator})
    (others,) = dataclasses.replace(run, config=other).fill_mask(
        "The president of the [MASK] in Congress.", top_k=20
    )
    differences = np.array([f.probability for f in fillings]) / [f.probability for f in others] - 1
    assert np.abs(differences).max() > 4e-5


def test_a_text_without_a_mask_or_a_wrong_top_k_is_refused(run):
    with pytest.raises(DataError, match=r"no \[MASK\] in 'the union'"):
        run.fill_mask("the union")
    with pytest.raises(ConfigError, match="top_k is -245; accepted: at least 1"):
        run.fill_mask("the [MASK]", top_k=-245)


def test_a_text_may_have_as_many_tokens_as_the_model_has_positions(run):
    limit = run.config.model.max_positions
    word = next(
        p for p in run.tokenizer.pieces if p.isalpha() and len(run.tokenizer.encode(p)) == 1
    )
    fits = " ".join([word] * (limit - 3))
    assert len(run.fill_mask(f"{fits} [MASK]")) == 1
    with pytest.raises(DataError, match=f"{limit + 1} tokens.*{limit}"):
        run.fill_mask(f"{fits} {word} [MASK]")


# ---- Directories that are not runs ------------------------------------------------------------


def test_a_directory_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        load_run(tmp_path)
    for path in (tmp_path / "nowhere", Path("/nowhere")):
        with pytest.raises(CheckpointError, match="nowhere does not exist"):
            load_run(path)
    with pytest.raises(CheckpointError, match="not a run"):
        load_run("/")
    with pytest.raises(CheckpointError, match="path of a run is ''; accepted: the path"):
        load_run("")
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_an_unsaved_step_lists_the_saved_steps(trained):
    with pytest.raises(CheckpointError, match=r"no checkpoint 7; accepted: \[6, 12\]"):
        load_run(trained[0], 7)
    with pytest.raises(CheckpointError, match=r"no checkpoint 0; accepted: \[6, 12\]"):
        load_run(trained[0], 0)
    assert load_run(trained[0], np.float64(6)).step == 6


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_run(tmp_path)


def test_the_error_names_arrays_of_another_shape(trained, tmp_path):
    """The stored config says 3 layers and the arrays have 2. No layer may be dropped or added."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    file = workdir / "checkpoints" / "12" / "config" / "metadata"
    description = json.loads(file.read_text())
    description["model"]["num_layers"] = 3
    file.write_text(json.dumps(description))
    with pytest.raises(CheckpointError) as error:
        load_run(workdir, verify=False)
    said = str(error.value)
    assert "params/bert/layers/attention/query/kernel is float32[2, 32, 4, 8]" in said
    assert "not float32[3, 32, 4, 8]" in said and "embeddings" not in said


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("passport", "accepted: 3"),
        ("tokenizer", "accepted: 1"),
        ("config", "accepted: 1 to 4"),
        ("digests", "not 1"),
    ],
)
def test_a_later_format_is_refused_with_both_versions(
    name, accepted, trained, experiment, tmp_path
):
    """Until 1.0 a format may break once. Configs of all earlier formats can still be read."""
    files = {
        "passport": (load_passport, Path(experiment.data.directory), "passport.json"),
        "tokenizer": (load_tokenizer, Path(experiment.data.directory), "tokenizer.json"),
        "config": (lambda path: load(str(path / "config.json")), trained[0], "config.json"),
        "digests": (load_run, trained[0], "checkpoints/12/digests.json"),
    }
    read, source, file = files[name]
    shutil.copytree(source, tmp_path / "copy")
    content = json.loads((tmp_path / "copy" / file).read_text())
    (tmp_path / "copy" / file).write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises((CheckpointError, ConfigError, DataError)) as error:
        read(tmp_path / "copy")
    said = str(error.value)
    assert "format_version" in said and "99" in said and accepted in said and "\n" not in said


def test_opening_a_run_changes_no_file(trained):
    workdir = trained[0]
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    load_run(workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
