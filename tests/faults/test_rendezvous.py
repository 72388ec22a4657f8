"""A process finds the processes of its cluster without flags, and names those that are missing."""

import http.server
import threading

import pytest
from commands import free_port
from jax._src.clusters import cloud_tpu_cluster

from bert_jax.errors import ConfigError, TemporaryError
from bert_jax.faults import processes
from bert_jax.faults.rendezvous import find_processes

SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[007-008],other",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
GKE = {
    "TPU_SKIP_MDS_QUERY": "true",
    "TPU_WORKER_HOSTNAMES": "localhost,b,c,d",
    "TPU_WORKER_ID": "3",
}
SECOND_SLICE = {
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}  # also in a notebook


METADATA = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.2",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'",
}


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata server of a Cloud TPU VM."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(METADATA[self.path.rpartition("/")[2]].encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def metadata():
    """Runs a metadata server. Yields its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cluster_of(monkeypatch):
    """Returns a function that sets the variables of a cluster. A VM with TPUs has metadata."""
    for name in ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.delenv(name, raising=False)

    def set_variables(variables, *, metadata=None):
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", bool(metadata))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if metadata:
            monkeypatch.setenv("GCE_METADATA_IP", metadata)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "tpu", "found"),
    [
        ({}, False, None),
        (SLURM, False, ("node007:62344", 3, 2)),
        (SLURM | {"SLURM_NTASKS": "1"}, False, ("", 1, 0)),
        (GKE, True, ("localhost:8482", 4, 3)),
        (GKE | SECOND_SLICE, True, ("localhost:8482", 8, 7)),
        (GKE | POD | {"JOB_COMPLETION_INDEX": "3"}, True, ("localhost:8482", 4, 3)),
        ({}, True, ("127.0.0.1:8482", 2, 1)),
        (GKE, False, None),
        (OPEN_MPI, False, ("10.96.0.1:62624", 2, 1)),
        (POD, False, None),
    ],
    ids="nothing slurm one-task gke second-slice jobset tpu-vm no-tpu mpi pod".split(),
)
def test_processes_of_a_cluster_are_found(variables, tpu, found, cluster_of, metadata):
    cluster_of(variables, metadata=metadata if tpu else None)
    assert find_processes(timeout=1) == found


def test_a_cluster_that_does_not_answer_is_an_error(cluster_of):
    cluster_of({}, metadata=f"127.0.0.1:{free_port()}")
    with pytest.raises(TemporaryError, match="Connection.* --coordinator, .* --nocluster"):
        processes.start_processes(None, None, None)
    processes.start_processes(None, None, None, cluster=False)


def test_a_process_that_must_be_in_a_cluster_does_not_train_alone(cluster_of):
    cluster_of({})
    with pytest.raises(ConfigError, match="--cluster: jax detects no cluster here; accepted: "):
        processes.start_processes(None, None, None, cluster=True)


def test_tasks_of_slurm_wait_for_each_other_and_name_those_that_are_missing(cluster_of):
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    cluster_of(SLURM | port | {"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "localhost"})
    with pytest.raises(TemporaryError, match="process 1, 2 of 3 has not come to process 0 at"):
        processes.start_processes(None, None, None, timeout=0.2)
