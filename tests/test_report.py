"""The report says what the sweep's table says, and works in a real browser."""

import html
import json
import re
from pathlib import Path

import pytest
from browser import look
from commands import assert_one_line, run_command

from bert_jax.config import config_hash, from_json, override, to_json
from bert_jax.errors import ConfigError, DataError
from bert_jax.sweeps.comparison import statement
from bert_jax.sweeps.gather import curves_of, find_runs, gather
from bert_jax.sweeps.page import render
from bert_jax.sweeps.table import decimals_of
from bert_jax.training.experiment import Experiment

RECORD = Path(__file__).parents[1] / "docs" / "runs" / "dropout_bits.jsonl"
EVIL = "<script>alert(1)<script>"


def write_runs(directory, changes=({},), names=()):
    """Writes the ten recorded runs as directories, once for each of `changes`."""
    order = []
    for change in changes:
        for line in RECORD.open():
            record = json.loads(line)
            experiment = override(from_json(Experiment, record["config"]), change)
            name = names[len(order)] if len(order) < len(names) else config_hash(experiment)
            run = directory / name
            run.mkdir(parents=True)
            (run / "config.json").write_text(json.dumps(to_json(experiment)))
            (run / "result.json").write_text(json.dumps(record["result"]))
            rows = "".join(f"{json.dumps(row)}\n" for row in record["metrics"])
            (run / "metrics.jsonl").write_text(rows)
            order.append(name)
    lines = [f'"{name}",done' for name in order]
    (directory / "summary.csv").write_text("\n".join(["id,status", *lines, ""]))
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("report") / "runs", names=[EVIL])


@pytest.fixture(scope="module")
def gathered(runs):
    return gather([runs])


@pytest.fixture(scope="module")
def page(gathered, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(gathered, title=EVIL))
    return file


def test_the_statements_and_numbers_are_those_of_the_sweeps_table(gathered, page):
    text = html.unescape(page.read_text())
    for row in gathered.rows:
        decimals = decimals_of([other for other in gathered.rows if other.metric == row.metric])
        assert f"<td>{row.estimate.mean:.{decimals}f}</td>" in text
        if row.point.number:
            said = statement(row, decimals).removeprefix(f"{row.metric}: ")
            assert said[0].upper() + said[1:] in text
    assert len(gathered.rows) == 6 and "115 seeds would tell with probability 0.8" in text


def test_the_branches_of_several_trunks_are_one_point(tmp_path):
    """Each seed has a trunk of its own, whose path is in its config."""
    for seed in (0, 1):
        run = write_runs(tmp_path / str(seed), names=["branch"]) / "branch"
        config = json.loads((run / "config.json").read_text())
        config["seed"], config["training"]["branch_from"] = seed, f"trunks/{seed}@10"
        (run / "config.json").write_text(json.dumps(config))
    (point,) = gather([tmp_path / seed / "branch" for seed in "01"]).points
    assert len(point.runs) == 2 and not point.fields


def test_a_run_has_a_name_however_its_directory_is_given(runs, tmp_path, monkeypatch):
    first, second = find_runs(runs)[:2]
    monkeypatch.chdir(first)
    assert list(gather([Path(".")]).directories) == [first.name]
    (tmp_path / first.name).symlink_to(second)  # a run of the same name elsewhere
    names = gather([Path("."), tmp_path / first.name]).directories
    assert len(names) == 2 and all(name.endswith(f"/{first.name}") for name in names)


def test_two_runs_of_the_same_config_and_seed_are_refused(runs, tmp_path):
    """A comparison by seed would silently use one of them."""
    again = write_runs(tmp_path / "again")
    with pytest.raises(
        ConfigError, match="seeds of base .* accepted: each seed once; the runs are"
    ):
        render(gather([runs, again]), title="twice")


def test_a_name_cannot_end_an_element(page):
    text = page.read_text()
    assert EVIL not in text and html.escape(EVIL) in text
    assert text.count("<script") == text.count("</script>") == 2


def test_curves_have_steps_tokens_flops_and_seconds(gathered):
    run = gathered.points[0].runs[0]
    columns = curves_of(gathered.directories[run.id], run.experiment)
    assert {len(column) for column in columns.values()} == {60}
    last = {name: columns[name][-1] for name in ("steps", "tokens", "FLOPs", "seconds")}
    assert last["steps"] == 3000
    assert last["tokens"] == pytest.approx(gathered.points[0].tokens, rel=1e-4)
    assert last["FLOPs"] == pytest.approx(gathered.points[0].flops, rel=1e-4)
    assert last["seconds"] == pytest.approx(gathered.results[run.id]["seconds"], rel=1e-4)
    assert all(a < b for a, b in zip(columns["seconds"], columns["seconds"][1:], strict=False))


def test_the_base_is_the_first_run_of_the_sweep_or_the_named_one(runs, gathered):
    assert gathered.points[0].runs[0].id == EVIL == find_runs(runs)[0].name
    other = gathered.points[1].runs[0].id
    again = gather([runs], base=other)
    assert [len(point.runs) for point in again.points] == [5, 5]
    assert again.points[0].fields == {"model.dropout_bits": "threefry"}
    with pytest.raises(ConfigError, match="--base"):
        gather([runs], base="none")


def test_runs_that_are_not_of_the_last_sweep_are_left_out(runs, tmp_path):
    """The tables of the sweep leave them out, too."""
    directory = write_runs(tmp_path / "runs")
    lines = (directory / "summary.csv").read_text().splitlines()
    (directory / "summary.csv").write_text("\n".join(lines[:-2]))
    (point, _) = gather([directory]).points
    assert len(point.runs) == 5 and len(find_runs(directory)) == 8


def test_unfinished_and_failed_runs_are_shown(runs, tmp_path):
    directory = write_runs(tmp_path / "runs")
    first, *_, second = find_runs(directory)
    (first / "result.json").unlink()
    (second / "result.json").unlink()
    (second / "metrics.jsonl").unlink()
    (second / "error.txt").write_text("error: no memory")
    gathered = gather([directory])
    assert [gathered.states[run.name] for run in (first, second)] == ["begun", "failed"]
    assert "1 of 5 seeds failed" in render(gathered, title="half")


def test_a_failed_evaluation_counts_until_the_run_has_a_result_that_the_summary_lacks(tmp_path):
    directory = write_runs(tmp_path / "runs")
    run = find_runs(directory)[0]
    lines = ["id,status,mlm_loss,movies/accuracy", f"{run.name},failed,5.0,"]
    (directory / "summary.csv").write_text("\n".join([*lines, ""]))
    assert gather([directory]).states[run.name] == "failed"  # its evaluation failed
    (directory / "summary.csv").write_text("\n".join([*lines, ""]).replace("5.0", ""))
    assert gather([directory]).states[run.name] == "done"  # it was trained again since
    (directory / "summary.csv").write_text(f"id\n{run.name}\n")
    with pytest.raises(DataError, match=r"summary.csv: columns is \['id'\]; accepted: those"):
        gather([directory])


USE = """
const find = id => page.getElementById(id);
const curves = () => find("curves").querySelectorAll("path").length;
const labels = () => [...find("curves").querySelectorAll("text")].map(one => one.textContent);
const change = (id, value) => {
  find(id).value = value; find(id).dispatchEvent(new inside.Event("change"));
};
const press = key => find("curves").dispatchEvent(new inside.KeyboardEvent("keydown", {key}));
const found = {drawn: curves(), h1: page.querySelector("h1").textContent};
const [button, other] = find("legend").children;
button.click();
found.hidden = [curves(), button.getAttribute("aria-pressed")];
button.dispatchEvent(new inside.MouseEvent("click", {shiftKey: true}));
found.alone = [curves(), other.getAttribute("aria-pressed")];
other.click();
find("seeds").click();
found.seeds = curves();
find("seeds").click();
const whole = labels();
press("+");
found.zoomed = String(labels()) !== String(whole);
find("reset").click();
found.whole = String(labels()) === String(whole);
const box = find("curves").getBoundingClientRect();
const drag = (type, part) => (type === "pointerdown" ? find("curves") : inside).dispatchEvent(
  new inside.PointerEvent(type, {
    clientX: box.left + part * box.width, clientY: box.top + 99, bubbles: true,
  }));
drag("pointerdown", 0.3); drag("pointermove", 0.5); drag("pointerup", 0.6);
found.dragged = String(labels()) !== String(whole);
press("0");
found.axes = [...find("axis").options].map(option => option.value);
found.by = found.axes.map(axis => {
  change("axis", axis); return [labels().includes(axis), curves()];
});
change("metric", "train/grad_norm");
found.other = curves();
found.multiples = find("multiples").querySelectorAll("svg").length;
found.ids = new Set([...page.querySelectorAll("clipPath")].map(one => one.id)).size;
return found;
"""


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_in_a_browser(page, tmp_path, width):
    seen = look(page, tmp_path, USE, width=width)
    assert seen.console == [] and seen.requests == []
    assert seen.width <= width
    assert seen.found == {
        "h1": EVIL,
        "drawn": 2,
        "hidden": [1, "false"],
        "alone": [1, "false"],
        "seeds": 10,
        "zoomed": True,
        "whole": True,
        "dragged": True,
        "axes": ["steps", "tokens", "FLOPs", "seconds"],
        "by": [[True, 2]] * 4,
        "other": 2,
        "multiples": 2,
        "ids": 3,
    }


@pytest.mark.slow  # writes and opens a hundred runs
def test_a_page_of_100_runs_opens_within_3_seconds(tmp_path):
    rates = [{"optimizer.learning_rate": rate / 1e4} for rate in range(1, 11)]
    gathered = gather([write_runs(tmp_path / "runs", rates)])
    assert len(gathered.points) == 20 and len(gathered.directories) == 100
    (tmp_path / "report.html").write_text(render(gathered, title="100 runs"))
    seen = look(tmp_path / "report.html", tmp_path, USE.split("const [button")[0] + "return found;")
    assert seen.found["drawn"] == 20 and seen.console == []
    assert seen.seconds < 3


def test_the_command_writes_one_file(runs, tmp_path):
    output = tmp_path / "report.html"
    done = run_command("report", runs, f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}\n"
    assert not re.search(r"(src|href)=", output.read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no directory is given"),
        (["EMPTY"], "has no config.json"),
        (["EMPTY", "--output=report.pdf"], "--output is 'report.pdf'"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(arguments, said, tmp_path):
    given = [str(tmp_path) if one == "EMPTY" else one for one in arguments]
    output = [] if "report.pdf" in str(given) else [f"--output={tmp_path}/report.html"]
    assert_one_line(run_command("report", *given, *output), said)
    assert not list(tmp_path.iterdir())
