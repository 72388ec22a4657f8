"""An emulator of Google Cloud Storage on loopback, with the header that TensorStore needs."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

_download = objects.download


def _download_with_generation(request, response, storage, *arguments, **options):
    """Answers as Google does. Without the generation, TensorStore cannot write a file again."""
    _download(request, response, storage, *arguments, **options)
    if response.status < 400:
        name = request.params["bucket_name"], request.params["object_id"]
        response["x-goog-generation"] = storage.get_file_obj(*name)["generation"]


@contextmanager
def emulator(bucket: str) -> Iterator[dict[str, str]]:
    """Runs an emulator with one bucket. Yields the variables that make all libraries use it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    with mock.patch.object(objects, "download", _download_with_generation):
        server.start()
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "FSSPEC_GCS": '{"token": "anon"}',
        }
        server.stop()
