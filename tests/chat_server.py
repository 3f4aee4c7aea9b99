"""A server of OpenAI's chat completions on this machine, for tests."""

import contextlib
import http.server
import json
import threading

from r1jax.rewards.endpoint import EndpointConfig


class Server(http.server.ThreadingHTTPServer):
  """Answers with what `say` makes of (number of the request, body).

  `say` gives a text, a status, raw bytes, or None to be silent for ever.
  """

  daemon_threads = True

  def __init__(self, say):
    super().__init__(("127.0.0.1", 0), Handler)
    self.say, self.seen, self.keys = say, [], set()
    self.lock, self.gate = threading.Lock(), threading.Event()
    self.now = self.most = 0

  @property
  def url(self):
    host, port = self.server_address
    return f"http://{host}:{port}/v1"

  def config(self, **changes):
    return EndpointConfig(url=self.url, model="m", **dict(
        wait=0.0, timeout=5.0, tries=3) | changes)


class Handler(http.server.BaseHTTPRequestHandler):

  def do_POST(self):  # noqa: N802 - the base class calls it
    server = self.server
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    with server.lock:
      number = len(server.seen)
      server.seen.append(body)
      server.keys.add(self.headers.get("Authorization"))
      server.now += 1
      server.most = max(server.most, server.now)
    said = server.say(number, body)
    with server.lock:
      server.now -= 1
    if said is None:
      server.gate.wait(30)
      return
    status = said if isinstance(said, int) else 200
    if isinstance(said, str):
      said = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
    data = said if isinstance(said, bytes) else b"{}"
    self.send_response(status)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *args):
    pass


@contextlib.contextmanager
def serving():
  """(what it says) -> a server that runs until the block ends."""
  servers = []

  def start(say):
    server = Server(say)
    threading.Thread(target=server.serve_forever, args=(0.01,),
                     daemon=True).start()
    servers.append(server)
    return server

  try:
    yield start
  finally:
    for server in servers:
      server.gate.set()
      server.shutdown()
      server.server_close()


def question(body):
  """What was asked."""
  return body["messages"][-1]["content"]
