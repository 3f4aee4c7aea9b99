"""A bucket on this machine: the part of Cloud Storage's JSON API in use here.

gcsfs (behind etils.epath), TensorStore and google-cloud-storage talk to it over
HTTP, in this process and others:

    with fake_gcs.Server() as server:
      server.run(program)
      server.names()  # of all objects

Objects are whole or not there, as in the real one: one appears when its upload
ends, and none can be renamed together with others or appended to.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import http.server
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable

from tests.processes import ROOT

BUCKET = "bucket"


@dataclasses.dataclass(frozen=True)
class Stored:
  """An object."""

  data: bytes
  generation: int
  updated: str


class Server(http.server.ThreadingHTTPServer):
  """Serves one bucket while its `with` block runs.

  Attributes:
    objects: by name.
    writes: how often each name was written.
  """

  daemon_threads = True

  def __init__(self) -> None:
    super().__init__(("127.0.0.1", 0), _Handler)
    self.objects: dict[str, Stored] = {}
    self._held: Callable[[str, str], bool] = lambda method, name: False
    self._released = threading.Event()
    self.writes: dict[str, int] = {}
    self.sessions: dict[str, tuple[str, dict, bytearray]] = {}
    self.lock = threading.Lock()
    self._count = itertools.count(1)

  def __enter__(self) -> Server:
    threading.Thread(target=self.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *exception: object) -> None:
    self.shutdown()
    self.server_close()

  def handle_error(self, request: object, client_address: object) -> None:
    """Nothing: clients cut connections whose answer they need no more."""

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.server_port}"

  @property
  def environment(self) -> dict[str, str]:
    """Variables that turn the libraries from Google to this server."""
    return {
        "STORAGE_EMULATOR_HOST": self.url,  # gcsfs, google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": self.url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore
        # Kinds of buckets that only gRPC tells apart.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

  def names(self, prefix: str = "") -> list[str]:
    """Names of the objects that begin with `prefix`, sorted."""
    with self.lock:
      return sorted(name for name in self.objects if name.startswith(prefix))

  def hold(self, wanted: Callable[[str, str], bool]) -> threading.Event:
    """Lets no more come through once wanted("PUT" or "DELETE", name) is true.

    Returns:
      An event that is set when that is reached. `release` ends it; what was
      held then is not done.
    """
    reached = threading.Event()
    self._released.clear()

    def held(method: str, name: str) -> bool:
      if not reached.is_set() and wanted(method, name):
        reached.set()
      return reached.is_set()

    self._held = held
    return reached

  def release(self) -> None:
    """Ends `hold`."""
    self._held = lambda method, name: False
    self._released.set()

  def _start(self, program: str, *arguments: str) -> subprocess.Popen:
    """A Python program that sees the bucket."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | self.environment)

  def run(self, program: str, *arguments: str) -> str:
    """What it printed; it must succeed."""
    process = self._start(program, *arguments)
    try:
      text = process.communicate(timeout=240)[0]
    finally:
      process.kill()
      process.communicate()
    assert process.returncode == 0, text
    return text

  def kill(self, wanted: Callable[[str, str], bool], program: str,
           *arguments: str) -> None:
    """Kills it when it makes the wanted request, which is not done."""
    reached = self.hold(wanted)
    process = self._start(program, *arguments)
    try:
      assert reached.wait(120)
    finally:
      process.kill()
      process.communicate()
      self.release()

  def passes(self, method: str, name: str) -> None:
    """Returns at once, or never where `hold` has begun.

    Raises:
      ConnectionAbortedError: after `release`, for what was held.
    """
    if self._held(method, name):
      self._released.wait()
      raise ConnectionAbortedError(name)

  def put(self, name: str, data: bytes, query: dict) -> Stored | None:
    """Writes an object; None where its generation is not the wanted one."""
    self.passes("PUT", name)
    with self.lock:
      if not self.matches(name, query):
        return None
      now = datetime.datetime.now(datetime.UTC)
      self.objects[name] = Stored(
          data, next(self._count), f"{now:%Y-%m-%dT%H:%M:%S.%f}Z")
      self.writes[name] = self.writes.get(name, 0) + 1
      return self.objects[name]

  def matches(self, name: str, query: dict) -> bool:
    """Whether the object's generation (0: none) is as the request wants it."""
    found = self.objects.get(name)
    generation = found.generation if found else 0
    return (int(query.get("ifGenerationMatch", generation)) == generation
            and int(query.get("ifGenerationNotMatch", -1)) != generation)


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: Server

  def log_message(self, *arguments: object) -> None:
    """Nothing."""

  def _serve(self) -> None:
    url = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(url.query))
    self.body = self._read()
    for method, pattern, answer in _ROUTES:
      match = re.fullmatch(pattern, url.path)
      if match and self.command in method:
        answer(self, *map(urllib.parse.unquote, match.groups()))
        return
    self._error(501, f"{self.command} {self.path} is not served")

  do_GET = do_POST = do_PUT = do_DELETE = _serve

  def _read(self) -> bytes:
    if self.headers.get("Transfer-Encoding") != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    parts = []
    while size := int(self.rfile.readline(), 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b"".join(parts)

  def _send(self, code: int, data: bytes = b"", **headers: str) -> None:
    self.send_response(code)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def _json(self, value: dict) -> None:
    self._send(200, json.dumps(value).encode(),
               Content_Type="application/json; charset=UTF-8")

  def _error(self, code: int, message: str) -> None:
    self._send(code, json.dumps(
        {"error": {"code": code, "message": message}}).encode(),
               Content_Type="application/json; charset=UTF-8")

  def _meta(self, name: str, stored: Stored) -> dict:
    digest = base64.b64encode(hashlib.md5(stored.data).digest()).decode()
    return {"kind": "storage#object", "bucket": BUCKET, "name": name,
            "id": f"{BUCKET}/{name}/{stored.generation}",
            "size": str(len(stored.data)), "metageneration": "1",
            "generation": str(stored.generation), "md5Hash": digest,
            "updated": stored.updated, "timeCreated": stored.updated,
            "contentType": "application/octet-stream"}

  def bucket(self, bucket: str) -> None:
    if bucket != BUCKET:
      self._error(404, "The specified bucket does not exist.")
      return
    self._json({"kind": "storage#bucket", "name": bucket, "id": bucket,
                "location": "HERE", "storageClass": "STANDARD"})

  def list(self, bucket: str) -> None:
    prefix, cut = self.query.get("prefix", ""), self.query.get("delimiter", "")
    first = self.query.get("pageToken") or self.query.get("startOffset", "")
    last = self.query.get("endOffset")
    limit = int(self.query.get("maxResults") or 1000)
    items, prefixes, token = [], [], None
    for name in self.server.names(prefix):
      stored = self.server.objects.get(name)
      end = name.find(cut, len(prefix)) if cut else -1
      entry = name if end < 0 else name[:end + len(cut)]
      if entry < first or (last and entry >= last) or stored is None or (
          prefixes and entry == prefixes[-1]):
        continue
      if len(items) + len(prefixes) == limit:
        token = entry
        break
      if end < 0:
        items.append(self._meta(name, stored))
      else:
        prefixes.append(entry)
    found = {"kind": "storage#objects", "items": items, "prefixes": prefixes}
    self._json(found | ({"nextPageToken": token} if token else {}))

  def get(self, bucket: str, name: str) -> None:
    with self.server.lock:
      stored = self.server.objects.get(name)
      matches = self.server.matches(name, self.query)
    if stored is None:
      self._error(404, f"No such object: {bucket}/{name}")
    elif not matches:
      not_modified = "ifGenerationNotMatch" in self.query
      self._send(304 if not_modified else 412)
    elif self.query.get("alt") != "media":
      self._json(self._meta(name, stored))
    else:
      self._media(stored)

  def _media(self, stored: Stored) -> None:
    headers = {"X_Goog_Generation": str(stored.generation),
               "Content_Type": "application/octet-stream"}
    wanted = re.fullmatch(
        r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
    if not wanted:
      self._send(200, stored.data, **headers)
      return
    size = len(stored.data)
    start, end = wanted.groups()
    begin = int(start) if start else max(0, size - int(end))
    stop = min(size, int(end) + 1) if start and end else size
    if begin >= size:
      self._send(416, Content_Range=f"bytes */{size}", **headers)
      return
    self._send(206, stored.data[begin:stop],
               Content_Range=f"bytes {begin}-{stop - 1}/{size}", **headers)

  def upload(self, bucket: str) -> None:
    kind = self.query.get("uploadType")
    if bucket != BUCKET:
      self._error(404, "The specified bucket does not exist.")
    elif kind == "media":
      self._stored(self.query["name"], self.body, self.query)
    elif kind == "multipart":
      boundary = re.search(
          'boundary="?([^";]+)"?', self.headers["Content-Type"])[1].encode()
      _, meta, data, _ = re.split(b"\r?\n?--" + re.escape(boundary), self.body)
      name = json.loads(re.split(b"\r?\n\r?\n", meta, maxsplit=1)[1])["name"]
      self._stored(name, re.split(b"\r?\n\r?\n", data, maxsplit=1)[1],
                   self.query)
    else:
      name = self.query.get("name") or json.loads(self.body)["name"]
      key = f"session-{len(self.server.sessions)}"
      self.server.sessions[key] = name, self.query, bytearray()
      self._send(200, Location=f"{self.server.url}/resume/{key}")

  def resume(self, key: str) -> None:
    if self.command == "DELETE":
      self.server.sessions.pop(key, None)
      self._send(499)
      return
    name, query, data = self.server.sessions[key]
    data += self.body
    total = self.headers.get("Content-Range", "").rpartition("/")[2]
    if total in ("", "*") or int(total) > len(data):
      self._send(308, Range=f"bytes=0-{len(data) - 1}")
      return
    del self.server.sessions[key]
    self._stored(name, bytes(data), query)

  def _stored(self, name: str, data: bytes, query: dict) -> None:
    stored = self.server.put(name, data, query)
    if stored is None:
      self._error(412, "conditionNotMet")
    else:
      self._json(self._meta(name, stored))

  def delete(self, bucket: str, name: str) -> None:
    self.server.passes("DELETE", name)
    with self.server.lock:
      if name not in self.server.objects:
        self._error(404, f"No such object: {bucket}/{name}")
      elif not self.server.matches(name, self.query):
        self._error(412, "conditionNotMet")
      else:
        del self.server.objects[name]
        self._send(204)

  def move(self, bucket: str, source: str, target: str) -> None:
    with self.server.lock:
      stored = self.server.objects.get(source)
    if stored is None:
      self._error(404, f"No such object: {bucket}/{source}")
      return
    moved = self.server.put(target, stored.data, {})
    with self.server.lock:
      self.server.objects.pop(source, None)
    self._json(self._meta(target, moved))


_OBJECT = r"/(?:download/)?storage/v1/b/([^/]+)/o"
_ROUTES = (
    (("GET",), r"/storage/v1/b/([^/]+)", _Handler.bucket),
    (("GET",), _OBJECT, _Handler.list),
    (("GET",), _OBJECT + "/([^/]+)", _Handler.get),
    (("DELETE",), _OBJECT + "/([^/]+)", _Handler.delete),
    (("POST",), _OBJECT + "/([^/]+)/moveTo/o/([^/]+)", _Handler.move),
    (("POST",), r"/upload/storage/v1/b/([^/]+)/o", _Handler.upload),
    (("PUT", "POST", "DELETE"), r"/resume/([^/]+)", _Handler.resume),
)
