"""Opens a page in headless Chromium, runs a script in it, and returns what the script found."""

import json
import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

OUTER = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body><script>
(async () => {
  const frame = document.createElement("iframe"), start = performance.now();
  frame.width = WIDTH; frame.height = 900;
  await new Promise(loaded => {
    frame.onload = loaded; frame.src = "/page.html"; document.body.append(frame);
  });
  const page = frame.contentDocument, inside = frame.contentWindow;
  await new Promise(drawn => inside.requestAnimationFrame(() => setTimeout(drawn)));
  const seconds = (performance.now() - start) / 1000;
  let found;
  try { found = await (async () => { SCRIPT })(); } catch (error) { found = String(error); }
  const requests = inside.performance.getEntriesByType("resource").map(entry => entry.name);
  const width = page.documentElement.scrollWidth;
  await fetch("/found", {method: "POST", body: JSON.stringify([found, seconds, requests, width])});
})();
</script></body>"""


class Seen(NamedTuple):
    """The state of a page after a script."""

    found: Any
    """Value that the script returned, or its error as a string."""
    seconds: float
    """Time from the request of the page to its first picture."""
    requests: list[str]
    """Files that the page asked for."""
    width: int
    """Width of the content in pixels."""
    console: list[str]
    """Lines that the browser's console got."""


@contextmanager
def _serving(pages: dict[str, str], answers: Queue):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in pages
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def look(page: Path, directory: Path, script: str, *, width: int = 1280) -> Seen:
    """Opens a page in a window of `width` pixels and runs the body of a function in it.

    In the script, `page` is the document and `inside` its window. A machine without Chromium fails.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "no chromium on PATH; apt-get install chromium"
    outer = OUTER.replace("WIDTH", str(width)).replace("SCRIPT", script)
    answers: Queue = Queue()
    log = directory / "browser.log"
    with _serving({"/": outer, "/page.html": page.read_text(encoding="utf-8")}, answers) as url:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--enable-logging=stderr", f"--user-data-dir={directory}/profile"]
        command += [f"--window-size={width + 40},1000", url]
        with log.open("w") as errors:
            process = subprocess.Popen(command, stdout=errors, stderr=errors)
            try:
                answer = answers.get(timeout=60)
            finally:
                process.terminate()
                process.wait(timeout=30)
    console = [line for line in log.read_text().splitlines() if ":CONSOLE" in line]
    return Seen(*answer, console=console)
