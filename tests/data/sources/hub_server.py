"""A server on loopback that answers like the Hugging Face Hub, for the files of one dataset."""

import json
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@contextmanager
def serve(repository, *, revisions, commits):
    """Serves a dataset; yields the endpoint and the list of the paths that were asked for.

    `revisions` maps a revision to a commit, and `commits` a commit to the files by path, as bytes.
    """
    asked = []

    def answer(path, body):
        """Returns status and content: an object for JSON, or the bytes of a file."""
        commit_of = revisions | {commit: commit for commit in commits}
        parts = unquote(path).removeprefix("/api").strip("/").split("/")
        if parts[0] != "datasets" or "/".join(parts[1:3]) != repository:
            return 404, {"error": "Repository not found"}
        action, revision, *rest = [*parts[3:], "revision", "main"][: max(2, len(parts) - 3)]
        if revision not in commit_of:
            return 404, {"error": "Revision not found"}
        files, name = commits[commit_of[revision]], "/".join(rest)
        if action == "revision":
            return 200, {"id": repository, "sha": commit_of[revision], "siblings": []}
        if action == "resolve":
            return (200, files[name]) if name in files else (404, {"error": "Entry not found"})
        wanted = body.get("paths", list(files))
        return 200, [
            {
                "type": "file",
                "path": one,
                "size": len(files[one]),
                "oid": sha1(files[one]).hexdigest(),
            }
            for one in files
            if one in wanted and one.startswith(name)
        ] + [
            {"type": "directory", "path": folder, "oid": "0" * 40}
            for folder in {one.rpartition("/")[0] for one in files} - {""}
            if folder in body.get("paths", [folder]) and folder.startswith(name) and folder != name
        ]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length).decode()
            body = json.loads(text) if text.startswith("{") else {}
            status, content = answer(urlsplit(self.path).path, body)
            commit = next((c for c in commits if c in self.path), next(iter(commits)))
            self.respond(status, content, commit)

        do_HEAD = do_POST = do_GET

        def respond(self, status, content, commit):
            is_file = isinstance(content, bytes)
            data = content if is_file else json.dumps(content).encode()
            etag = sha1(data).hexdigest()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            if status == 404:
                kind = content["error"].split()[0].replace("Repository", "Repo") + "NotFound"
                headers["X-Error-Code"] = kind
            if is_file and (asked_range := self.headers.get("Range")):
                first, last = asked_range.removeprefix("bytes=").split("-")
                end = min(int(last or len(data)), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
                status, data = 206, data[int(first) : end + 1]
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
