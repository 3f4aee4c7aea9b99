"""A judge behind HTTP: a client of OpenAI's chat completions protocol.

  ask = Endpoint(EndpointConfig(url="http://host:8000/v1", model="judge"),
                 key=os.environ.get("OPENAI_API_KEY", ""), cache="runs/cache")
  texts = ask([conversation, ...])      # None where there was no answer

Answers are cached, so that a rerun does not ask again. A query that keeps
failing has no answer, which is never counted as a bad verdict. An endpoint that
answers no query at all is an error.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Message

_LONGEST = 8 << 20  # most bytes of a response
_CHUNK = 1 << 16
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses to retry
_OWN = (400, 413, 422)  # errors of this query, such as one that is too long
_MAX_WAIT = 60.0  # longest wait in seconds, whatever the server asks for
_SILENT = 8  # queries in a row without an answer that mean it is down


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
  """Which model of an endpoint is asked, and how requests are sent."""

  model: str = ""  # name of the model, as the endpoint knows it
  concurrency: int = 16  # number of requests in flight
  timeout: float = 120.0  # seconds for one attempt, until the last byte
  tries: int = 5  # attempts for each query
  wait: float = 1.0  # seconds before the second attempt, then doubled each time

  def __post_init__(self):
    for name in ("concurrency", "tries"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    check(self.timeout > 0, f"timeout={self.timeout} must be positive")
    check(self.wait >= 0, f"wait={self.wait} must not be negative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointConfig(Connection):
  """How an endpoint is queried."""

  # Base URL, such as http://localhost:8000/v1. No flag: a command's --judge=URL
  # or --init=URL gives it.
  url: str = dataclasses.field(default="", metadata={"flag": False})
  temperature: float = 0.6  # sampling temperature of the request
  top_p: float = 1.0  # nucleus probability of the request; 1 is not sent
  max_tokens: int = 2048  # longest answer, in tokens

  def __post_init__(self):
    super().__post_init__()
    check(self.max_tokens > 0, f"max_tokens={self.max_tokens} must be positive")
    check(self.temperature >= 0,
          f"temperature={self.temperature} must not be negative")


class Endpoint:
  """A function from conversations to texts, see `judge.Generate`.

  Attributes:
    asked: number of queries sent so far, without repeated attempts.
    cached: number of queries answered from the cache.
    failures: {reason: number of queries without an answer}.
  """

  def __init__(self, config: EndpointConfig, *, key: str = "",
               cache: str | os.PathLike = ""):
    """Sends nothing yet.

    Args:
      config: how it is queried.
      key: sent as a bearer token; it is neither logged nor stored.
      cache: folder for answers; "" does not store them.

    Raises:
      ValueError: the URL is not http:// or https://.
    """
    check(config.url.startswith(("http://", "https://")),
          f"url={config.url!r}: give the endpoint's base, such as"
          " http://localhost:8000/v1")
    self.config = config
    self._url = config.url.rstrip("/") + "/chat/completions"
    self._key = key
    self._cache = epath.Path(cache) if cache else None
    self._lock = threading.Lock()
    self._silent = 0  # queries without an answer since the last answer
    self.asked = self.cached = 0
    self.failures: collections.Counter = collections.Counter()

  def __call__(self, conversations: Sequence[Sequence[Message]]
               ) -> list[str | None]:
    """One text for each conversation, in order; None where there is no answer.

    Raises:
      OSError: the endpoint is down; the message says why.
    """
    counts: collections.Counter = collections.Counter()
    queries = []
    for messages in conversations:
      body = self._body(messages)
      text = json.dumps(body, sort_keys=True)
      # Equal conversations in one call are separate samples.
      queries.append((body, _digest(self._url, text, counts[text])))
      counts[text] += 1
    with concurrent.futures.ThreadPoolExecutor(
        self.config.concurrency) as threads:
      pending = [threads.submit(self._query, *query) for query in queries]
      try:
        answers = [one.result() for one in pending]
      except BaseException:
        # Queries that wait are not sent any more.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    if answers and all(nobody for _, nobody in answers):
      raise self._down(len(answers))
    return [text for text, _ in answers]

  def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
    body = {"model": self.config.model, "messages": [
        {"role": m["role"], "content": m["content"]} for m in messages],
        "temperature": self.config.temperature,
        "max_tokens": self.config.max_tokens}
    # The body is the key of the cache, so a default is left out of it.
    return body if self.config.top_p == 1 else body | {
        "top_p": self.config.top_p}

  def _query(self, body: dict[str, Any], digest: str
             ) -> tuple[str | None, bool]:
    """(answer or None, whether the endpoint would answer no query at all)."""
    known = self._known(digest)
    if known is not None:
      with self._lock:
        self.cached += 1
      return known, False
    with self._lock:
      self.asked += 1
    reason, pause, nobody = "", 0.0, False
    for number in range(self.config.tries):
      if self._silent >= _SILENT or pause == float("inf"):
        break  # other queries found it down, or another attempt is useless
      time.sleep(min(_MAX_WAIT, pause))
      text, reason, least, nobody = self._try(body)
      if text is not None:
        self._keep(digest, text)
        with self._lock:
          self._silent = 0
        return text, False
      pause = max(least, self.config.wait * 2**number)
    self._failed(reason)
    return None, nobody

  def _failed(self, reason: str) -> None:
    with self._lock:
      if reason:
        self.failures[reason] += 1
      if reason in {_status(code) for code in _OWN}:
        return  # it is up: it refused this query
      self._silent += 1
      if self._silent < _SILENT:
        return
    raise self._down(_SILENT)

  def _down(self, count: int) -> OSError:
    with self._lock:
      why = self.failures.most_common(1)[0][0]
    return OSError(
        f"{self._url} has answered none of the last {count} queries ({why});"
        " check that it is up and that URL, model name and key are right, then"
        " run the same command again: " + (
            "answers so far are cached" if self._cache
            else "answers so far are lost, as there is no cache folder"))

  def _try(self, body: dict[str, Any]) -> tuple[str | None, str, float, bool]:
    """One attempt.

    Returns:
      (answer or None, reason why there is none, least seconds to wait, whether
      the endpoint would fail for every query). The seconds are infinite if
      another attempt is useless.
    """
    request = urllib.request.Request(
        self._url, json.dumps(body).encode(), self._headers())
    deadline = time.monotonic() + self.config.timeout
    slow = None, f"no answer within {self.config.timeout:g} s", 0.0, False
    try:
      with urllib.request.urlopen(
          request, timeout=self.config.timeout) as response:
        return _content(_read(response, deadline)), "", 0.0, False
    except urllib.error.HTTPError as error:
      again = error.code in _AGAIN
      wait = _seconds(error.headers) if again else float("inf")
      error.close()
      return None, _status(error.code), wait, not again and (
          error.code not in _OWN)
    except TimeoutError:
      return slow
    except (OSError, http.client.HTTPException) as error:
      reason = getattr(error, "reason", error)
      if isinstance(reason, TimeoutError):
        return slow
      return None, str(reason) or type(reason).__name__, 0.0, isinstance(
          error, urllib.error.URLError)
    except (ValueError, RecursionError) as error:
      return None, str(error), 0.0, False

  def _headers(self) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    return headers | ({"Authorization": f"Bearer {self._key}"}
                      if self._key else {})

  def _known(self, digest: str) -> str | None:
    path = self._path(digest)
    if path is None or not path.exists():
      return None
    try:
      text = io.read_json(path)["text"]
    except (ValueError, KeyError, TypeError):
      return None  # damaged: ask again
    return text if isinstance(text, str) else None

  def _keep(self, digest: str, text: str) -> None:
    path = self._path(digest)
    if path is not None:
      # The lock, because temporary files are named by the process only.
      with self._lock:
        io.write_json(path, {"text": text})

  def _path(self, digest: str) -> epath.Path | None:
    return self._cache and self._cache / digest[:2] / f"{digest}.json"


def _status(code: int) -> str:
  return f"HTTP status {code}"


def _digest(*parts: Any) -> str:
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(response: Any, deadline: float) -> bytes:
  """The body of a response; the deadline also holds for one that trickles."""
  body = bytearray()
  while chunk := response.read1(_CHUNK):
    body += chunk
    if len(body) > _LONGEST:
      raise ValueError(f"a response of more than {_LONGEST >> 20} MiB")
    if time.monotonic() > deadline:
      raise TimeoutError
  return bytes(body)


def _content(data: bytes) -> str:
  """The text of a chat completion.

  Raises:
    ValueError: the data are not a chat completion with text.
  """
  try:
    completion = json.loads(data.decode())
    text = completion["choices"][0]["message"]["content"]
  except (ValueError, KeyError, IndexError, TypeError) as error:
    raise ValueError("a response that is no chat completion") from error
  if not isinstance(text, str):
    raise ValueError("a chat completion without text")
  return text


def _seconds(headers: Mapping[str, str]) -> float:
  """Seconds of the header Retry-After; 0 if it is absent or not a number."""
  try:
    return max(0.0, min(_MAX_WAIT, float(headers.get("Retry-After", 0))))
  except ValueError:
    return 0.0
