"""An OpenAI-compatible HTTP API: /v1/chat/completions, /v1/completions.

Responses have the form that the official client reads; the thought is in
`reasoning_content` beside `content`, as in other servers of reasoning models.
Every error is a JSON object with a message that names the offending field.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Http
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from r1jax.data.text.tokenizer import TextStream, Tokenizer
from r1jax.rollout.serving import Full, Serving
from r1jax.serving import requests
from r1jax.serving.answers import Answerer, Part
from r1jax.serving.requests import Refused, Request

_RETRY = "1"  # seconds after which a full server may be asked again
_MARK = "\N{REPLACEMENT CHARACTER}"
BODY_SECONDS = 30.0  # in which a request's body must arrive


class Limits(NamedTuple):
  """Limits on requests, and authentication.

  Attributes:
    body: the most bytes of a request body.
    token: the bearer token that clients must send; "" for none.
    logprobs: whether log-probabilities may be requested; under risk control
      they would reveal the tokens of a retracted answer.
  """

  body: int
  token: str = ""
  logprobs: bool = True


class Server:
  """The HTTP routes of one model."""

  def __init__(self, name: str, serving: Serving, answerer: Answerer,
               tokenizer: Tokenizer, limits: Limits):
    """Builds the ASGI application `app`; opens no socket.

    Args:
      name: the model's name in requests.
      serving: the model's batched sampler.
      answerer: turns requests into completions.
      tokenizer: decodes tokens beside their log-probabilities.
      limits: on requests.
    """
    self._name, self._serving, self._answerer = name, serving, answerer
    self._tokenizer, self._limits = tokenizer, limits
    self._began = int(time.time())
    self.app = Starlette(
        routes=[
            Route("/health", self._guarded(self._health, free=True)),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/models/{name:path}", self._guarded(self._model)),
            Route("/v1/chat/completions", self._guarded(self._chat),
                  methods=["POST"]),
            Route("/v1/completions", self._guarded(self._text),
                  methods=["POST"])],
        exception_handlers={HTTPException: _unrouted, Exception: _failed})

  def _guarded(self, answer: Callable[[Http], Awaitable[Response]],
               free: bool = False) -> Callable[[Http], Awaitable[Response]]:
    """`answer` after authentication (unless `free`), with errors as JSON."""
    async def guarded(http: Http) -> Response:
      try:
        if not free:
          self._admit(http)
        return await answer(http)
      except Refused as error:
        return _error(error)
      except Full as error:
        return _error(Refused(f"{error}; ask again later", status=429,
                              code="queue_full"))
      except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
      except RuntimeError as error:
        return _error(Refused(str(error), status=503, code="unavailable"))

    return guarded

  def _admit(self, http: Http) -> None:
    if not self._limits.token:
      host = http.headers.get("host", "")
      if not local(re.sub(r":\d*$", "", host)):
        # A page whose name was made to lead here would pass for our own in a
        # browser, and could read the answers.
        raise Refused(f"the header Host is {host[:80]!r}; without a token this"
                      " server answers to localhost and 127.0.0.1 only; start"
                      " it with --token", status=403, code="host_not_allowed")
      return
    given = http.headers.get("authorization", "").encode("latin-1")  # as sent
    wanted = f"Bearer {self._limits.token}".encode()
    if not hmac.compare_digest(given, wanted):
      raise Refused("send the server's token in the header Authorization:"
                    " Bearer ...", status=401, code="invalid_api_key")

  async def _health(self, http: Http) -> Response:
    failed = self._serving.failure is not None
    return JSONResponse(
        {"status": "failed" if failed else "ok", "live": self._serving.live,
         "waiting": self._serving.waiting}, 503 if failed else 200)

  async def _models(self, http: Http) -> Response:
    return JSONResponse({"object": "list", "data": [self._card()]})

  async def _model(self, http: Http) -> Response:
    self._check_name(http.path_params["name"])
    return JSONResponse(self._card())

  def _card(self) -> dict[str, Any]:
    return {"id": self._name, "object": "model", "created": self._began,
            "owned_by": "r1jax", "max_model_len": self._serving.context}

  def _check_name(self, name: str) -> None:
    if name != self._name:
      raise Refused(f"there is no model {name[:80]!r}; this server has"
                    f" {self._name!r}", "model", status=404,
                    code="model_not_found")

  async def _chat(self, http: Http) -> Response:
    return await self._answered(http, chat=True)

  async def _text(self, http: Http) -> Response:
    return await self._answered(http, chat=False)

  async def _answered(self, http: Http, *, chat: bool) -> Response:
    request = requests.read(await self._body(http), chat=chat)
    self._check_name(request.model)
    choices = max(len(request.prompts), 1) * request.n
    if choices > self._serving.capacity:
      raise Refused(f"the request asks for {choices} completions; this server"
                    f" takes at most {self._serving.capacity} at once", "n")
    if request.logprobs and not self._limits.logprobs:
      raise Refused("logprobs are not available under risk control", "logprobs")
    prompts = await run_in_threadpool(self._answerer.asked, request)
    limit = self._answerer.limit(request, prompts)
    reply = _Reply(request, self._tokenizer, sum(len(p.ids) for p in prompts),
                   self._name)
    parts = self._answerer.parts(request, prompts, limit)
    if request.stream:
      # Waiting for the first part here lets a full queue be an HTTP status.
      first = await _unless_gone(http, anext(parts))
      return StreamingResponse(
          reply.stream(first, parts), media_type="text/event-stream",
          headers={"Cache-Control": "no-cache"})
    try:
      return JSONResponse(await _unless_gone(
          http, reply.whole(parts, choices)))
    finally:
      await parts.aclose()

  async def _body(self, http: Http) -> bytes:
    kind = http.headers.get("content-type", "").partition(";")[0].strip()
    if kind.lower() != "application/json":
      # Other types a browser sends for any page, without asking this server.
      raise Refused("send the header Content-Type: application/json",
                    status=415, code="unsupported_media_type")
    body, most = bytearray(), self._limits.body
    try:
      async with asyncio.timeout(BODY_SECONDS):
        async for chunk in http.stream():
          body += chunk
          if len(body) > most:
            raise Refused(f"the body has more than {most} bytes", status=413,
                          code="body_too_large")
    except TimeoutError as error:
      raise Refused(f"the body did not arrive within {BODY_SECONDS:g} s",
                    status=408, code="timeout") from error
    return bytes(body)


def local(host: str) -> bool:
  """Whether a host, by name or address, is this machine for itself only."""
  try:
    return ipaddress.ip_address(host.strip("[]")).is_loopback
  except ValueError:
    return host.lower() == "localhost"


class _Reply:
  """Formats the parts of choices as OpenAI's response objects."""

  def __init__(self, request: Request, tokenizer: Tokenizer,
               prompt_tokens: int, name: str):
    self._request, self._tokenizer = request, tokenizer
    self._prompt_tokens, self._tokens = prompt_tokens, 0
    self._chat = request.messages is not None
    kind = "chat.completion" if self._chat else "text_completion"
    streamed = f"{kind}.chunk" if self._chat and request.stream else kind
    self._head = {
        "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": streamed, "created": int(time.time()), "model": name}
    self._texts: dict[int, TextStream] = {}  # of tokens, by choice
    self._offsets: dict[int, int] = {}

  async def whole(self, parts: AsyncIterator[Part], choices: int
                  ) -> dict[str, Any]:
    """The reply to a request that does not stream."""
    texts = [["", ""] for _ in range(choices)]
    finished = [""] * choices
    drawn: list[list[dict[str, Any]]] = [[] for _ in range(choices)]
    async for part in parts:
      at = part.choice
      if part.replaces:
        texts[at] = ["", ""]
      texts[at][0] += part.piece.thought
      texts[at][1] += part.piece.content
      finished[at] = part.finished
      drawn[at] += self._drawn(part)
    return self._head | {
        "choices": [{"index": at, "finish_reason": finished[at],
                     "logprobs": self._logprobs(drawn[at], at),
                     **self._said(*texts[at])} for at in range(choices)],
        "usage": self._usage()}

  def _said(self, thought: str, content: str) -> dict[str, Any]:
    if not self._chat:
      return {"text": content}
    message = {"role": "assistant", "content": content, "refusal": None}
    return {"message": message | (
        {"reasoning_content": thought} if thought else {})}

  async def stream(self, first: Part, parts: AsyncIterator[Part]
                   ) -> AsyncIterator[str]:
    """The events of a request that streams."""
    begun: set[int] = set()
    try:
      for line in self._events(first, begun):
        yield line
      async for part in parts:
        for line in self._events(part, begun):
          yield line
      if self._request.usage:
        yield _event(self._head | {"choices": [], "usage": self._usage()})
      yield "data: [DONE]\n\n"
    except RuntimeError as error:  # the HTTP status was already sent
      yield _event(_object(Refused(str(error), status=503)))
    finally:
      await parts.aclose()

  def _events(self, part: Part, begun: set[int]) -> list[str]:
    drawn = self._drawn(part)
    delta: dict[str, Any] = {}
    if self._chat and part.choice not in begun:
      delta = {"role": "assistant"}
    begun.add(part.choice)
    if part.piece.thought:
      delta["reasoning_content"] = part.piece.thought
    if part.piece.content:
      delta["content"] = part.piece.content
    if not delta and not part.finished and not drawn:
      return []
    said = {"delta": delta} if self._chat else {"text": part.piece.content}
    return [_event(self._head | {"choices": [{
        "index": part.choice, "finish_reason": part.finished or None,
        "logprobs": self._logprobs(drawn, part.choice), **said}]}
        | ({"usage": None} if self._request.usage else {}))]

  def _drawn(self, part: Part) -> list[dict[str, Any]]:
    self._tokens += len(part.tokens)
    if not self._request.logprobs:
      return []
    # In context: a token alone may lose its space. One with which no character
    # is complete has no text, and its bytes are not known.
    stream = self._texts.setdefault(part.choice, TextStream(self._tokenizer))
    texts = [stream.add([i]) for i in part.tokens]
    return [{"token": text, "logprob": value, "top_logprobs": [],
             "bytes": list(text.encode()) if text and _MARK not in text
                      else None}
            for text, value in zip(texts, part.logprobs, strict=True)]

  def _logprobs(self, drawn: Sequence[dict[str, Any]], choice: int
                ) -> dict[str, Any] | None:
    if not self._request.logprobs:
      return None
    if self._chat:
      return {"content": list(drawn), "refusal": None}
    offsets = []
    for token in drawn:
      offsets.append(self._offsets.get(choice, 0))
      self._offsets[choice] = offsets[-1] + len(token["token"])
    return {"tokens": [t["token"] for t in drawn],
            "token_logprobs": [t["logprob"] for t in drawn],
            "top_logprobs": None, "text_offset": offsets}

  def _usage(self) -> dict[str, int]:
    return {"prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": self._prompt_tokens + self._tokens}


async def _unless_gone(http: Http, awaited: Awaitable[Any]) -> Any:
  """What is awaited, which is cancelled if the client disconnects first.

  Raises:
    ClientDisconnect: it did.
  """
  work = asyncio.ensure_future(awaited)
  left = asyncio.create_task(_gone(http))
  try:
    await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
      raise ClientDisconnect
    return work.result()
  finally:
    for task in (work, left):
      task.cancel()
    await asyncio.gather(work, left, return_exceptions=True)


async def _gone(http: Http) -> None:
  """Returns when the client has disconnected."""
  while (await http.receive())["type"] != "http.disconnect":
    pass


async def _unrouted(http: Http, error: HTTPException) -> Response:
  code = "not_found" if error.status_code == 404 else "method_not_allowed"
  response = _error(Refused(
      f"{http.method} {http.url.path} is not served here",
      status=error.status_code, code=code))
  response.headers.update(error.headers or {})  # the methods allowed
  return response


async def _failed(http: Http, error: Exception) -> Response:
  return _error(Refused("the server failed on this request; its log says why",
                        status=500, code="internal_error"))


def _error(error: Refused) -> Response:
  headers = {"Retry-After": _RETRY} if error.status == 429 else {}
  if error.status == 401:
    headers["WWW-Authenticate"] = "Bearer"
  # ASCII: a message may quote what is no text, such as half of a surrogate.
  return Response(json.dumps(_object(error)), error.status, headers,
                  "application/json")


def _object(error: Refused) -> dict[str, Any]:
  kind = "invalid_request_error" if error.status < 500 else "server_error"
  return {"error": {"message": error.message, "type": kind,
                    "param": error.param, "code": error.code}}


def _event(value: dict[str, Any]) -> str:
  # ASCII: some clients divide lines at U+0085 and U+2028 too.
  return f"data: {json.dumps(value)}\n\n"
