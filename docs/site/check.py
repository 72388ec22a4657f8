"""Opens each page of the site in headless Chromium, 1280 and 400 pixels wide.

    python docs/site/check.py site

A page fails if it writes an error to the console, asks another server for a file, or is wider than
the window. Exit status 1 if a page fails.
"""

import functools
import html
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WIDTHS = (1280, 400)

OPEN_ALL = """<!doctype html><meta charset="utf-8"><title>pages</title><body><script>
const found = [];
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 1000;
  await new Promise(loaded => {
    frame.onload = loaded; frame.src = page; document.body.append(frame);
  });
  await new Promise(drawn => setTimeout(drawn, 100));
  const inside = frame.contentWindow, root = frame.contentDocument.documentElement;
  const asked = inside.performance.getEntriesByType("resource").map(entry => entry.name);
  found.push({
    page, width, content: root.scrollWidth, title: frame.contentDocument.title,
    foreign: asked.filter(url => !url.startsWith(location.origin)),
  });
  frame.remove();
}
(async () => {
  for (const page of PAGES) for (const width of WIDTHS) await look(page, width);
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = JSON.stringify(found);
  document.body.append(result);
})();
</script></body>"""


class Site(SimpleHTTPRequestHandler):
    """Serves the files of the site, and the page that opens all others."""

    def __init__(self, *arguments, pages: list[str], **options):
        self.pages = pages
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        """Answers a request."""
        if self.path != "/open-all":
            return super().do_GET()
        text = OPEN_ALL.replace("PAGES", json.dumps(self.pages)).replace("WIDTHS", str([*WIDTHS]))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_) -> None:
        """Prints nothing."""


def main(site: Path) -> int:
    """Returns the exit status."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("error: there is no browser; accepted: chromium or google-chrome on PATH")
        return 2
    pages = sorted(f"/{file.relative_to(site)}" for file in site.rglob("*.html"))
    handler = functools.partial(Site, directory=site, pages=pages)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    url = f"http://127.0.0.1:{server.server_port}/open-all"
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=600000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    server.shutdown()
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    if result is None:
        print(f"error: the browser did not open all pages\n{done.stderr}")
        return 1
    failures = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    for one in json.loads(html.unescape(result[1])):
        where = f"{one['page']} at {one['width']} pixels"
        if one["content"] > one["width"]:
            failures.append(f"{where} is {one['content']} pixels wide")
        if one["foreign"]:
            failures.append(f"{where} asks for {one['foreign']}")
        if not one["title"]:
            failures.append(f"{where} has no title")
    print("\n".join([*failures, f"{len(pages)} pages opened, {len(failures)} failures"]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
