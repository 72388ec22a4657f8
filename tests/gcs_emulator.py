"""An emulator of Google Cloud Storage on loopback, with the header that TensorStore needs.

  python tests/gcs_emulator.py BUCKET COMMAND ARGUMENT...

runs a command for which gs://BUCKET is a bucket of the emulator. It is deleted at the end.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from http.server import HTTPServer
from unittest import mock

from gcp_storage_emulator import server as emulator_server
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)

_forced: list[HTTPStatus] = []
"""Its last element, if any, is the status of every answer."""

_download = objects.download
_handle = emulator_server.Router.handle
_report_error = HTTPServer.handle_error


@contextlib.contextmanager
def answering(status: HTTPStatus) -> Iterator[None]:
    """Makes the emulator answer every request with an error during the `with` statement."""
    _forced.append(status)
    yield
    _forced.pop()


def _handle_unless_forced(router, method):
    if _forced:
        router._request_handler.send_error(_forced[-1])
    else:
        _handle(router, method)


def _report_error_unless_client_ended(server, request, client_address):
    """A client that ends or tries again closes its connection. The server would print a traceback
    of that, and the tests count the lines of the standard error."""
    if not isinstance(sys.exception(), ConnectionError):
        _report_error(server, request, client_address)


def _download_with_generation(request, response, storage, *arguments, **options):
    """Answers as Google does. Without the generation, TensorStore cannot write a file again."""
    _download(request, response, storage, *arguments, **options)
    if response.status < 400:
        name = request.params["bucket_name"], request.params["object_id"]
        response["x-goog-generation"] = storage.get_file_obj(*name)["generation"]


@contextlib.contextmanager
def emulator(bucket: str) -> Iterator[dict[str, str]]:
    """Runs an emulator with one bucket. Yields the variables that make all libraries use it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    with (
        mock.patch.object(objects, "download", _download_with_generation),
        mock.patch.object(emulator_server.Router, "handle", _handle_unless_forced),
        mock.patch.object(HTTPServer, "handle_error", _report_error_unless_client_ended),
    ):
        server.start()
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "FSSPEC_GCS": '{"token": "anon"}',
            # Else each call of gcsfs asks Google about the bucket.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        server.stop()


if __name__ == "__main__":
    with emulator(sys.argv[1]) as variables:
        sys.exit(subprocess.run(sys.argv[2:], env=os.environ | variables, check=False).returncode)
