"""From an HTTP request to its completions: prompts, engine requests, text."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np
from anyio import CapacityLimiter, to_thread

from r1jax.core.prompt import Message, ask
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.rollout.serving import CANCELLED, STOP, Serving, Told, Wish
from r1jax.safety.risk_control import RiskControl
from r1jax.serving.requests import Refused, Request
from r1jax.serving.text import Apart, Piece, Stopped

FILTERED = "content_filter"  # risk control retracted the answer
_REVIEWS = 64  # the most answers that are reviewed at once


class Asked(NamedTuple):
  """A prompt as the model gets it.

  Attributes:
    ids: token ids, int32.
    tail: the beginning of the answer, where the template ends with one.
    messages: the conversation that risk control reads.
  """

  ids: np.ndarray
  tail: str
  messages: Sequence[Message]


class Part(NamedTuple):
  """New text and tokens of one choice.

  Attributes:
    choice: the choice's index in the response.
    piece: new text.
    tokens, logprobs: sampled since the last part; those of a stop text and the
      end-of-sequence token are included.
    finished: "" if more follows, else the finish reason.
    replaces: whether the text replaces all earlier text of the choice.
  """

  choice: int
  piece: Piece
  tokens: list[int]
  logprobs: list[float]
  finished: str = ""
  replaces: bool = False


class Answerer:
  """Answers requests in text with a model that is served by token ids."""

  def __init__(self, serving: Serving, tokenizer: Tokenizer, template: str,
               *, most: int = 0, control: RiskControl | None = None):
    """Stores its arguments.

    Args:
      serving: the model's batched sampler.
      tokenizer: the model's tokenizer.
      template: the name of the chat template.
      most: upper bound on the new tokens of an answer, whatever the client asks
        for; 0 for as many as the context has room for.
      control: risk control that answers pass through, if any.
    """
    self._serving, self._tokenizer = serving, tokenizer
    self._template, self._most, self._control = template, most, control
    # The child process that renders templates takes one chat at a time.
    self._rendering = threading.Lock()
    # Reviews may take long; they leave the other threads to new requests.
    self._reviews = CapacityLimiter(_REVIEWS)

  def asked(self, request: Request) -> list[Asked]:
    """The prompts of a request; blocks while rendering: call it in a thread.

    Raises:
      Refused: a prompt is empty, has ids outside the vocabulary, or is rejected
        by the chat template.
    """
    if request.messages is None:
      return [self._raw(prompt) for prompt in request.prompts]
    try:
      with self._rendering:
        rendered = templates.prompt(
            request.messages, self._template, self._tokenizer)
    except ValueError as error:
      raise Refused(str(error), "messages") from error
    return [Asked(np.array(rendered.ids, np.int32), rendered.tail,
                  request.messages)]

  def _raw(self, prompt: str | list[int]) -> Asked:
    tokenizer = self._tokenizer
    if isinstance(prompt, str):
      ids = tokenizer.encode(prompt)
      bos = tokenizer.bos_id
      ids = ids if bos is None or ids[:1] == [bos] else [bos, *ids]
    else:
      outside = [i for i in prompt if not 0 <= i < tokenizer.vocab_size]
      if outside:
        raise Refused(f"token id {outside[0]} is not one of the"
                      f" {tokenizer.vocab_size} of the tokenizer", "prompt")
      ids, prompt = prompt, tokenizer.decode(prompt)
    if not ids:
      raise Refused("the prompt has no tokens", "prompt")
    return Asked(np.array(ids, np.int32), "", ask(prompt))

  def limit(self, request: Request, prompts: Sequence[Asked]) -> int:
    """The most new tokens of each answer.

    Raises:
      Refused: the request asks for more than the context has room for, or for
        more than this server gives.
    """
    context, longest = self._serving.context, max(len(p.ids) for p in prompts)
    room = context - longest
    most = min(room, self._most or room)
    wanted = request.limit or max(most, 1)
    if room < wanted:
      raise Refused(
          f"the prompt has {longest} tokens and the request asks for {wanted}"
          f" new ones; the context is {context} tokens long",
          "messages" if request.messages else "prompt",
          code="context_length_exceeded")
    if wanted > most:
      raise Refused(f"the request asks for {wanted} new tokens; this server"
                    f" gives at most {self._most}", "max_tokens")
    return wanted

  async def parts(self, request: Request, prompts: Sequence[Asked], limit: int
                  ) -> AsyncIterator[Part]:
    """Streams all choices of a request (n per prompt), interleaved.

    Closing the iterator cancels what is unfinished and frees its rows.

    Raises:
      rollout.serving.Full: the queue is full.
      RuntimeError: the model failed.
    """
    choices = [_Choice(asked, number, request, limit)
               for asked in prompts for number in range(request.n)]
    parts: asyncio.Queue[Part | BaseException] = asyncio.Queue()

    async def follow(number: int, choice: _Choice) -> None:
      try:
        async for part in self._of(number, choice, request):
          await parts.put(part)
      except Exception as error:  # raised where the parts are read
        await parts.put(error)

    tasks = []
    try:
      self._serving.ask([choice.wish for choice in choices])
      tasks = [asyncio.create_task(follow(*pair))
               for pair in enumerate(choices)]
      left = len(choices)
      while left:
        part = await parts.get()
        if isinstance(part, BaseException):
          raise part
        yield part
        left -= bool(part.finished)
    finally:
      for choice in choices:
        choice.wish.cancelled = True
      for task in tasks:
        task.cancel()

  async def _of(self, number: int, choice: _Choice, request: Request
                ) -> AsyncIterator[Part]:
    """Streams one choice."""
    apart = Apart() if request.messages is not None else None

    def piece(text: str, last: bool = False) -> Piece:
      if apart is None:
        return Piece("", text)
      first, rest = apart.add(text), apart.end() if last else Piece()
      return Piece(first.thought + rest.thought, first.content + rest.content)

    watch = self._control and await to_thread.run_sync(
        self._control.begin, choice.asked.messages)
    try:
      async for text in choice.texts(self._tokenizer):
        yield Part(number, piece(watch.add(text) if watch else text),
                   *choice.drawn())
      last = watch and await to_thread.run_sync(
          watch.end, limiter=self._reviews)
    finally:
      if watch:
        watch.leave()
    if last and last.retracts:
      # The notice is content, even if the answer was still in its thought.
      yield Part(number, Piece("", last.text), [], [], FILTERED, replaces=True)
    else:
      yield Part(number, piece(last.text if last else "", True), [], [],
                 choice.finished)


class _Choice:
  """One completion in progress.

  Attributes:
    asked: its prompt.
    wish: its request to the sampler.
    finished: the finish reason, "" while it grows.
  """

  def __init__(self, asked: Asked, number: int, request: Request, limit: int):
    loop = asyncio.get_running_loop()
    self._told: asyncio.Queue[Told] = asyncio.Queue()

    def tell(told: Told) -> None:
      with contextlib.suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(self._told.put_nowait, told)

    self.asked, self.finished, self._stops = asked, "", request.stops
    self._tokens: list[int] = []
    self._logprobs: list[float] = []
    self.wish = Wish(
        prompt=asked.ids, limit=limit, temperature=request.temperature,
        top_p=request.top_p, seed=request.seed, number=number, tell=tell)

  async def texts(self, tokenizer: Tokenizer) -> AsyncIterator[str]:
    """Streams the text up to a stop."""
    text = Stopped(tokenizer, self.asked.tail, self._stops)
    while not self.finished:
      told = await self._told.get()
      if told.error or told.finished == CANCELLED:
        raise RuntimeError(told.error or "the answer was cancelled")
      before = text.taken
      new = text.add(told.tokens)
      self._tokens += told.tokens[:text.taken - before]
      self._logprobs += told.logprobs[:text.taken - before]
      self.wish.cancelled |= text.met
      self.finished = STOP if text.met else told.finished
      yield new
    last = text.end()
    self.finished = STOP if text.met else self.finished
    yield last

  def drawn(self) -> tuple[list[int], list[float]]:
    """Tokens sampled since the last call, and their log-probabilities."""
    drawn = self._tokens, self._logprobs
    self._tokens, self._logprobs = [], []
    return drawn
