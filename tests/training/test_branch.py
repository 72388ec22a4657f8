"""A branch is bitwise the run that made its trunk's updates itself."""

import shutil

import pytest
from same_run import arrays_of, assert_same_bits, rows_of

from bert_jax.config import override
from bert_jax.errors import BertJaxError, CheckpointError
from bert_jax.training.branch import check_same_updates
from bert_jax.training.train import train

TRUNK = {
    "optimizer.schedule": "constant",
    "training.steps": 8,
    "training.checkpoint_every": 4,
    "training.eval_every": 4,
    "training.log_every": 2,
}


def decay(shape, steps=4):
    """Returns the fields of a run that decays its learning rate after the trunk's 8 updates."""
    changes = {"optimizer.schedule": shape, "optimizer.warmup_steps": 0}
    phase = {"steps": steps, "own_schedule": True, "changes": changes}
    return TRUNK | {"training.steps": 8 + steps, "phases": [phase]}


@pytest.fixture(scope="module")
def trunk(experiment, tmp_path_factory):
    """The directory of a run of 8 updates with a constant learning rate."""
    workdir = tmp_path_factory.mktemp("trunk")
    train(override(experiment, TRUNK), workdir)
    return workdir


@pytest.mark.parametrize(
    ("shape", "mesh"),
    [
        ("one_minus_sqrt", {}),
        pytest.param("cosine", {}, marks=pytest.mark.long),
        pytest.param("polynomial", {"mesh.fsdp": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_branch_is_the_run_that_made_the_trunk_itself(shape, mesh, trunk, experiment, tmp_path):
    """On another mesh, the trunk's arrays are equal, and the branch trains and resumes."""
    whole = override(experiment, decay(shape) | mesh)
    branch = override(whole, {"training.branch_from": f"{trunk}@8"})
    train(branch, tmp_path / "branch")
    steps = [row["step"] for row in rows_of(tmp_path / "branch")]
    assert steps == [2, 4, 6, 8, 10, 12]
    if mesh:
        return
    train(whole, tmp_path / "whole")
    assert_same_bits(*(arrays_of(tmp_path / name, 12) for name in ("branch", "whole")))
    with_phase = [row for row in rows_of(tmp_path / "whole") if row["step"] > 8]
    assert [row for row in rows_of(tmp_path / "branch") if row["step"] > 8] == with_phase


@pytest.mark.slow
def test_a_branch_goes_on_from_its_own_checkpoint(trunk, experiment, tmp_path):
    """Its trunk may be gone by then. A branch that has no checkpoint yet begins again."""
    source = shutil.copytree(trunk, tmp_path / "trunk")
    branch = override(experiment, decay("cosine") | {"training.branch_from": f"{source}@8"})
    calls = []

    def interrupt(_):
        calls.append(1)
        raise KeyboardInterrupt

    workdir = tmp_path / "branch"
    with pytest.raises(KeyboardInterrupt):
        train(branch, workdir, probes=[interrupt])
    assert calls and not (workdir / "checkpoints" / "12").exists()
    train(branch, workdir)
    result, arrays = (workdir / "result.json").read_bytes(), arrays_of(workdir, 12)
    (workdir / "result.json").unlink()
    shutil.rmtree(source)
    train(branch, workdir)
    assert (workdir / "result.json").read_bytes()[:20] == result[:20]
    assert_same_bits(arrays_of(workdir, 12), arrays)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.branch_from": "{trunk}@5"}, r"no checkpoint 5; accepted: \[4, 8\]"),
        ({"training.branch_from": "{trunk}"}, "training.branch_from is .* accepted: RUN@STEP"),
        ({"training.branch_from": "{trunk}/nowhere@8"}, "has no checkpoint"),
        ({"training.steps": 8}, "training.branch_from is .*@8'; accepted: a step before tr.* 8"),
        ({"optimizer.beta1": 0.8}, "optimizer.beta1 is 0.8; accepted: 0.9, as in the trunk"),
        ({"seed": 1}, "seed is 1; accepted: 0, as in the trunk"),
        ({"phases": [{"steps": 6}]}, r"ends of phases is \[6, 8\]; accepted: \[8\]"),
        ({"optimizer.schedule": "polynomial"}, "optimizer.schedule is 'polynomial'"),
    ],
    ids=str,
)
def test_a_branch_with_other_updates_is_refused(changes, said, trunk, experiment, tmp_path):
    fields = decay("cosine") | {"training.branch_from": "{trunk}@8"} | changes
    fields["training.branch_from"] = fields["training.branch_from"].format(trunk=trunk)
    with pytest.raises(BertJaxError, match=said):
        train(override(experiment, fields), tmp_path / "branch")
    assert not (tmp_path / "branch").exists()


def test_a_schedule_of_another_length_is_refused(experiment):
    """The trunk's rate must not depend on how long the branch is."""
    decaying = override(experiment, {"training.steps": 4})
    longer = override(experiment, {"training.steps": 12})
    with pytest.raises(CheckpointError, match="other learning rates.*schedule=constant"):
        check_same_updates(decaying, longer, 4, "the trunk")
    constant = {"optimizer.schedule": "constant"}
    check_same_updates(override(decaying, constant), override(longer, constant), 4, "the trunk")
