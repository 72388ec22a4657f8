"""The scripts of launch/ are well-formed and start the commands that they say."""

import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jax._src.clusters import cloud_tpu_cluster

import bert_jax
from bert_jax.faults.rendezvous import find_processes

ROOT = Path(bert_jax.__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("missing: shellcheck; apt-get install shellcheck")
    subprocess.run(["shellcheck", str(script)], check=True, cwd=ROOT)


@pytest.fixture
def host(tmp_path):
    """A host whose `python` writes its arguments to a file and ends with the next of some states.

    Returns a function that runs a script of launch/ there. A `gcloud` of the host runs a command
    on the host itself.
    """
    (tmp_path / "bert_jax" / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(LAUNCH, tmp_path / "bert_jax" / "launch")
    activate = tmp_path / "bert_jax" / ".venv" / "bin" / "activate"
    activate.write_text(f"PATH={tmp_path}/bin:$PATH")
    programs = {
        "python": f"""
printf '%s|' "$@" >>{tmp_path}/started; echo >>{tmp_path}/started
status=$(head -n 1 {tmp_path}/states)
trap 'exit 75' TERM HUP
echo "ends with $status"
sed -i 1d {tmp_path}/states # the tests wait for it
if [ "$status" = wait ]; then while :; do sleep 0.1; done; fi
exit "$status"
""",
        "gcloud": f"""
for command; do :; done
echo "${{@:1:$#-1}}" >>{tmp_path}/gcloud
cd {tmp_path} && bash -c "${{command#--command=}}"
""",
    }
    (tmp_path / "bin").mkdir()
    for name, code in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash{code}")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script, *arguments, states, **variables):
        (tmp_path / "states").write_text("\n".join(map(str, states)) + "\n")
        path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        return subprocess.Popen(
            # nohup before pytest would make bash ignore SIGHUP.
            [*("env", "--default-signal=HUP", "bash"), tmp_path / "bert_jax" / "launch" / script]
            + [*arguments],
            env=os.environ
            | {"VIRTUAL_ENV": str(tmp_path / "bert_jax" / ".venv")}
            | path
            | variables,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


SLICE = {"TPU": "mine", "ZONE": "us-west4-a"}
ARGUMENTS = ("--workdir=gs://BUCKET/a run", "--set", "phases=[]")


@pytest.mark.parametrize(
    ("script", "variables", "flags"),
    [("gpu_node.sh", {}, ()), ("tpu_vm.sh", SLICE, ("--cluster",))],
)
@pytest.mark.parametrize(
    ("states", "last"), [((75, 134, 0), 0), ((75, 2, 0), 2), ((1, 0), 1)], ids=str
)
def test_a_run_is_started_again_until_it_has_finished_or_has_an_error(
    script, variables, flags, states, last, host, tmp_path
):
    process = host(script, *ARGUMENTS, states=states, **variables)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == last, said
    started = (tmp_path / "started").read_text().splitlines()
    command = "|".join(["-m", "bert_jax.pretrain", *flags, *ARGUMENTS]) + "|"
    assert started == [command] * (states.index(last) + 1)
    assert [line for line in said.splitlines() if "ends with" in line] == [
        f"ends with {status}" for status in states[: states.index(last) + 1]
    ]


def _wait_until_started(directory: Path) -> None:
    deadline = time.monotonic() + 30
    while not (directory / "states").read_text() == "0\n":  # the others are taken
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_script_ends_the_run_that_is_not_started_again(number, host, tmp_path):
    process = host("gpu_node.sh", *ARGUMENTS, states=(75, "wait", 0))
    _wait_until_started(tmp_path)
    process.send_signal(number)
    said = process.communicate(timeout=30)[0]  # the pipe closes when all processes have ended
    assert process.returncode == 75, said
    assert len((tmp_path / "started").read_text().splitlines()) == 2


def test_a_run_on_a_tpu_slice_outlives_its_connection_and_can_be_stopped(host, tmp_path):
    process = host("tpu_vm.sh", *ARGUMENTS, states=("wait", 0), **SLICE)
    deadline = time.monotonic() + 30
    _wait_until_started(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)  # the connection is lost
    process.communicate(timeout=30)
    log, file = (tmp_path / "bert_jax" / f"bert_jax.{name}" for name in ("log", "pid"))
    pid, before = int(file.read_text()), log.read_text()
    os.killpg(pid, 0)  # it still runs
    again = host("tpu_vm.sh", *ARGUMENTS, states=(0,), **SLICE)
    assert again.communicate(timeout=30)[0].startswith("error: a run is at work here")
    assert (again.returncode, int(file.read_text()), log.read_text()) == (2, pid, before)
    assert host("tpu_vm.sh", "--stop", states=("wait", 0), **SLICE).wait(timeout=30) == 0
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(pid, 0)
            time.sleep(0.05)
    assert len((tmp_path / "started").read_text().splitlines()) == 1  # not started again
    said = (tmp_path / "gcloud").read_text().splitlines()
    assert said == ["compute tpus tpu-vm ssh mine --zone=us-west4-a --worker=all"] * 3


@pytest.mark.parametrize("script", ["gpu_node.sh", "tpu_vm.sh"])
def test_help_shows_the_comment_of_a_script(script, host):
    process = host(script, "--help", states=())
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert said.startswith("Pretrains on ") and "bert_jax.pretrain" in said and "set -" not in said


def test_a_slice_without_a_name_is_refused(host):
    process = host("tpu_vm.sh", states=(), ZONE="a")
    assert "TPU: is the name of the slice" in process.communicate(timeout=30)[0]
    assert process.returncode == 1


def test_a_host_without_the_clone_starts_nothing(host, tmp_path):
    process = host("tpu_vm.sh", *ARGUMENTS, states=(0,), DIRECTORY="missing", **SLICE)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and "cd: missing: No such file" in said
    assert "launch/restart.sh" not in said and not (tmp_path / "bert_jax.log").exists()


def test_packages_are_installed_only_after_a_change(tmp_path):
    (tmp_path / "launch").mkdir()
    shutil.copy(LAUNCH / "environment.sh", tmp_path / "launch")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH={programs}:$PATH")
    (programs / "python").write_text("#!/usr/bin/env bash\n")
    (programs / "python").chmod(0o755)
    (tmp_path / "setup.py").touch()
    (tmp_path / "more.txt").touch()
    installed = []
    for version, extra in ((1, ""), (1, ""), (2, ""), (1, ""), (1, "more.txt"), (1, "")):
        (tmp_path / "requirements.txt").write_text(f"jax=={version}\n")
        command = ["bash", "-euc", "source launch/environment.sh"]
        variables = {"PYTHON": str(programs / "python"), "EXTRA_REQUIREMENTS": extra}
        environment = os.environ | variables
        said = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        installed.append(said.stdout.startswith(b"installing requirements.txt "))
    assert installed == [True, False, True, True, True, False]


# ---- Kubernetes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((LAUNCH / "gke-jobset.yaml").read_text())


def test_the_job_and_its_pods_fit_the_schema_of_kubernetes(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}}
    job |= replicated["template"]
    kubernetes_validate.validate(job, "1.33", strict=True)
    wrong = yaml.safe_load(yaml.safe_dump(job))
    wrong["spec"]["template"]["spec"]["containers"][0]["commands"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="commands"):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_the_jobset_has_the_fields_of_its_api(jobset):
    """Source: the API of JobSet, v1alpha2 (jobset.sigs.k8s.io/docs/reference)."""
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", jobset["metadata"]["name"])
    specification = jobset["spec"]
    assert specification.keys() == {"failurePolicy", "replicatedJobs"}
    assert specification["failurePolicy"].keys() == {"maxRestarts", "rules"}
    (rule,) = specification["failurePolicy"]["rules"]
    assert rule.keys() == {"name", "action", "onJobFailureReasons"}
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (replicated,) = specification["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}


def test_the_jobset_has_a_pod_for_each_host_of_the_slice(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    hosts = math.prod(map(int, topology.split("x"))) // chips
    assert job["parallelism"] == job["completions"] == hosts == 16
    assert job["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [1, 2]


@pytest.mark.parametrize("slices", [1, 2])
def test_jax_finds_every_pod_of_the_slices(slices, jobset, monkeypatch):
    """The variables are those that GKE sets in a pod of a JobSet with TPUs."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1  # the number of slices
    hosts = replicated["template"]["spec"]["parallelism"]
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    variables = {
        "TPU_SKIP_MDS_QUERY": "true",
        "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * hosts),
    }
    if slices > 1:
        variables |= {
            "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
            "MEGASCALE_NUM_SLICES": f"{slices}",
        }
    else:  # jax would ask the metadata server
        variables |= dict.fromkeys(("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES"), "")
    found = []
    for number in range(slices):
        for worker in range(hosts):
            of_pod = {"MEGASCALE_SLICE_ID": f"{number}", "TPU_WORKER_ID": f"{worker}"}
            for name, value in (variables | of_pod).items():
                monkeypatch.setenv(name, value)
            found.append(find_processes(timeout=1))
    count = slices * hosts
    assert found == [("localhost:8482", count, index) for index in range(count)]
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [8482]


def test_the_image_has_what_its_dockerfile_copies():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    assert copied == kept and all((ROOT / name).exists() for name in copied)
    # setup.py reads README.md, and pip reads the constraints.
    assert {"setup.py", "README.md", "requirements.txt", "bert_jax"} <= set(copied)
