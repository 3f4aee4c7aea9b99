"""A stand-in of huggingface.co on this machine, for tests.

What it says about ORG/NAME depends on NAME: `ok` has all files of a folder,
`none`, `private`, `gated`, `down` and `cut` are what their names say, `bare`
has no safetensors, `adapter` only an adapter; `slow` waits with half a file.
"""

import contextlib
import hashlib
import http.server
import json
import threading

COMMIT = "a" * 40
# What huggingface.co answers: status, code and sentence.
REFUSALS = {
    "none": (404, "RepoNotFound", "Repository not found"),
    "private": (401, "RepoNotFound", "Invalid username or password."),
    "gated": (403, "GatedRepo", "Access to this model is restricted"),
    "down": (503, "", "")}


class Handler(http.server.BaseHTTPRequestHandler):
  """Two calls of the API, and files."""

  protocol_version = "HTTP/1.1"

  def log_message(self, *arguments):
    pass

  def do_HEAD(self):  # noqa: N802 - the base class calls it
    self.do_GET()

  def do_GET(self):  # noqa: N802 - the base class calls it
    parts = self.path.partition("?")[0].strip("/").split("/")
    of_api = parts[:2] == ["api", "models"]
    _, name, *rest = parts[2:] if of_api else parts
    files = self.server.files(name)
    # Anybody may list the files of a gated model.
    if name in REFUSALS and not (name == "gated" and of_api):
      self.refuse(*REFUSALS[name])
    elif rest[0] == "revision":
      self.say(json.dumps({"id": name, "sha": COMMIT, "siblings": []}))
    elif rest[0] == "tree":
      self.say(json.dumps([{
          "type": "file", "path": path, "size": len(data), "oid": tag(data)}
          for path, data in files.items()]))
    else:
      self.file(files[rest[-1]], rest[-1] != "config.json" and name)

  def file(self, data, name):
    first = int((self.headers.get("Range") or "=0-").split("=")[1][:-1])
    self.send_response(206 if first else 200)
    self.send_header("ETag", f'"{tag(data)}"')
    self.send_header("X-Repo-Commit", COMMIT)
    self.send_header("Content-Length", len(data) - first)
    self.end_headers()
    if self.command != "HEAD":
      half = len(data) // 2 if name in ("cut", "slow") else len(data)
      self.wfile.write(data[first:half])
      if name == "slow":
        self.server.waits.set()
        self.server.gate.wait(60)
      self.wfile.write(data[half:] if name != "cut" else b"")
      self.close_connection = name == "cut"

  def say(self, text):
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", len(text))
    self.end_headers()
    self.wfile.write(text.encode())

  def refuse(self, status, code, message):
    self.send_response(status)
    self.send_header("X-Error-Code", code)
    self.send_header("X-Error-Message", message)
    self.send_header("Content-Length", 0)
    self.end_headers()


class Server(http.server.ThreadingHTTPServer):
  """Serves the files of a folder.

  Attributes:
    waits: set when a file of `slow` waits.
    gate: until this is set.
  """

  daemon_threads = True

  def __init__(self, folder):
    super().__init__(("127.0.0.1", 0), Handler)
    self._files = {path.name: path.read_bytes() for path in folder.iterdir()}
    self.waits, self.gate = threading.Event(), threading.Event()
    self.url = f"http://127.0.0.1:{self.server_port}"

  def handle_error(self, request, client_address):
    """Says nothing of clients that leave."""

  def files(self, name):
    """{path: contents} of a repository."""
    if name == "adapter":
      return {"adapter_config.json": b"{}"}
    left_out = ".safetensors" if name == "bare" else "\0"
    return {path: data for path, data in self._files.items()
            if not path.endswith(left_out)}


@contextlib.contextmanager
def serving(folder):
  """A running `Server`."""
  server = Server(folder)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield server
  finally:
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


def tag(data):
  return hashlib.sha1(data).hexdigest()
