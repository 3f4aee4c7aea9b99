"""A model for lm-evaluation-harness: log-likelihoods and generations.

The harness (https://github.com/EleutherAI/lm-evaluation-harness) requests three
things of a model, whose semantics are those of its own `hf` model: context and
continuation are tokenised together and split after the context's own ids; a
text without context follows the beginning-of-sequence id, or the
end-of-sequence id if there is none; sequences that are too long lose their
beginning. Departure: a generation is not stopped at a stop string, but cut
there afterwards.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.accounting import cost
from r1jax.core import fitting
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.data.text import chat
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models.model import Model
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating
from r1jax.stages.weights import Weights
from r1jax.training import step

_CHUNK = 512  # tokens whose logits exist at a time
_SHORTEST = 128  # tokens of the shortest row
_NEW = 256  # default most tokens of a generation, as in the harness
# Unsupported generation arguments, with the values that have no effect.
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "top_k": 0,
            "num_return_sequences": 1, "min_p": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarnessConfig:
  """Batch sizes and limits."""

  batch: int = 16  # generations per batch
  tokens: int = 8192  # tokens per batch of log-likelihoods
  max_length: int = 0  # longest sequence in tokens; 0: the model's context
  seed: int = 0  # seed of sampled generations

  def __post_init__(self):
    check(self.batch > 0 and self.tokens >= _SHORTEST and self.max_length >= 0,
          f"batch={self.batch}, tokens={self.tokens} and max_length="
          f"{self.max_length} must be at least 1, {_SHORTEST} and 0")


class Harness:
  """Serves the harness's requests, in batches of few shapes."""

  def __init__(self, policy: Weights, tokenizer: Tokenizer, cfg: HarnessConfig,
               mesh: jax.sharding.Mesh | None = None):
    """Compiles nothing yet.

    Args:
      policy: the model.
      tokenizer: its tokenizer.
      cfg: batch sizes and limits.
      mesh: the parameters' mesh, if any.

    Raises:
      ValueError: the model's context is shorter than cfg.max_length.
    """
    self._policy, self._cfg, self._mesh = policy, cfg, mesh
    self.tokenizer = tokenizer
    context = policy.model.cfg.max_position
    check(cfg.max_length <= context, f"max_length={cfg.max_length} exceeds the"
          f" model's context of {context}")
    self.max_length = cfg.max_length or context
    self._score = jax.jit(functools.partial(_token_scores, policy.model))
    self._engines: dict[tuple[float, float, int], Engine] = {}
    self._asked: collections.Counter[Any] = collections.Counter()

  @functools.cached_property
  def prefix(self) -> int:
    """The id that precedes a text without context."""
    for name in ("bos_token", "eos_token"):
      token = self.tokenizer.special_tokens.get(name)
      if token and len(ids := self.tokenizer.encode_chat(token)) == 1:
        return ids[0]
    return min(self.tokenizer.eos_ids)

  def encode(self, text: str) -> list[int]:
    """Ids of a text, with the beginning-of-sequence id; control tokens are
    recognised, as rendered chats need.
    """
    ids = self.tokenizer.encode_chat(text)
    bos = self.tokenizer.bos_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

  def loglikelihood(self, pairs: Sequence[tuple[str, str]]
                    ) -> list[tuple[float, bool]]:
    """(log-probability in nats, whether it is the greedy continuation) each.

    Args:
      pairs: (context, continuation) texts.
    """
    return self._scores([self._split(*pair) for pair in pairs])

  def rolling(self, texts: Sequence[str]) -> list[float]:
    """Log-probabilities of whole texts, in windows of `max_length` tokens."""
    windows, owners = [], []
    for number, text in enumerate(texts):
      for window in _windows(self.prefix, self.encode(text), self.max_length):
        windows.append(window)
        owners.append(number)
    sums = [0.0] * len(texts)
    for number, (value, _) in zip(owners, self._scores(windows), strict=True):
      sums[number] += value
    return sums

  def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]
               ) -> list[str]:
    """One completion per request, cut at its stop strings.

    Args:
      requests: (context, generation arguments: until, max_gen_toks, do_sample,
        temperature, top_p).

    Raises:
      ValueError: a task has another argument, or asks for more tokens than the
        context has room for.
    """
    groups: dict[tuple[float, float], list[int]] = {}
    asked = [_Asked.of(kwargs) for _, kwargs in requests]
    for number, one in enumerate(asked):
      groups.setdefault((one.temperature, one.top_p), []).append(number)
    texts = [""] * len(requests)
    for (temperature, top_p), numbers in groups.items():
      new = max(asked[n].tokens for n in numbers)
      check(new < self.max_length, f"max_gen_toks={new} leaves no room in the"
            f" context of {self.max_length}")
      engine = self._engine(temperature, top_p, new)
      prompts = {n: self.encode(requests[n][0])[-(self.max_length - new):]
                 or [self.prefix] for n in numbers}
      # Sorted by length, so that there is little padding.
      order = sorted(numbers, key=lambda n: len(prompts[n]))
      for start in range(0, len(order), self._cfg.batch):
        part = order[start:start + self._cfg.batch]
        for n, text in zip(part, self._sampled(
            engine, [prompts[n] for n in part], [asked[n].tokens for n in part])
            ):
          texts[n] = _cut(text, asked[n].until)
    return texts

  def chat(self, messages: Sequence[Mapping[str, str]],
           add_generation_prompt: bool = True) -> str:
    """Renders a conversation by the model's chat template.

    Without `add_generation_prompt` a last message of the assistant is the
    beginning of its answer: what the template puts after it is left out.
    """
    text = chat.render(self.tokenizer, messages,
                       add_generation_prompt=add_generation_prompt)
    last = messages[-1]
    if not add_generation_prompt and last["role"] == "assistant":
      text = text[:text.rindex(last["content"]) + len(last["content"])]
    return text

  def _split(self, context: str, continuation: str
             ) -> tuple[list[int], list[int]]:
    # Trailing spaces go to the continuation, because tokens begin with spaces.
    before = self.encode(context.rstrip()) if context else []
    if not before:
      ids = self.tokenizer.encode_chat(context + continuation)
      return [self.prefix], ids[ids[:1] == [self.prefix]:]
    return before, self.encode(context + continuation)[len(before):]

  def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]
              ) -> list[tuple[float, bool]]:
    sequences = []
    for context, continuation in pairs:
      check(0 < len(continuation) <= self.max_length, f"a continuation has"
            f" {len(continuation)} tokens; it must have 1 to {self.max_length}")
      sequences.append([*context, *continuation][-(self.max_length + 1):])
    groups: dict[int, list[int]] = {}
    for number, ids in enumerate(sequences):
      capacity = _SHORTEST
      while capacity < len(ids) - 1:
        capacity *= 2
      groups.setdefault(capacity, []).append(number)
    found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    for capacity, numbers in sorted(groups.items()):
      for batch, places in self._batches(
          [sequences[n] for n in numbers], capacity):
        logp_BT, best_BT = self._run(batch)
        for row, first, at in places:
          n = numbers[at]
          end = first + len(sequences[n]) - 1
          scored = slice(end - len(pairs[n][1]), end)
          found[n] = (float(logp_BT[row, scored].sum(dtype=np.float64)),
                      bool(best_BT[row, scored].all()))
    return found

  def _batches(self, sequences: Sequence[list[int]], capacity: int
               ) -> Iterator[tuple[TokenBatch, list[tuple[int, int, int]]]]:
    """Packed batches: (batch, [(row, first position, index of sequence)])."""
    shards = 1 if self._mesh is None else len(self._mesh.devices.flat)
    rows = max(1, self._cfg.tokens // capacity // shards) * shards
    plan = fitting.best_fit([len(ids) - 1 for ids in sequences], capacity)
    for start in range(0, len(plan), rows):
      arrays = {name: np.zeros((rows, capacity), np.int32) for name in (
          "tokens_BT", "targets_BT", "segments_BT", "positions_BT")}
      places = []
      for row, members in enumerate(plan[start:start + rows]):
        first = 0
        for segment, at in enumerate(members, 1):
          ids = np.array(sequences[at], np.int32)
          span = row, slice(first, first + len(ids) - 1)
          arrays["tokens_BT"][span] = ids[:-1]
          arrays["targets_BT"][span] = ids[1:]
          arrays["segments_BT"][span] = segment
          arrays["positions_BT"][span] = np.arange(len(ids) - 1)
          places.append((row, first, at))
          first += len(ids) - 1
      yield TokenBatch(**arrays, mask_BT=np.ones(
          (rows, capacity), np.float32)), places

  def _run(self, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    cost.read("score", self._policy.model.cfg, batch)
    with step.on_mesh(self._mesh):
      return jax.device_get(self._score(
          self._policy.params, self._policy.router_bias_LE,
          step.place(batch, self._mesh)))

  def _engine(self, temperature: float, top_p: float, new: int) -> Engine:
    key = temperature, top_p, new
    if key not in self._engines:
      self._engines[key] = Engine(self._policy.model, SamplingConfig(
          temperature=temperature, top_p=top_p, max_new_tokens=new),
          self.tokenizer.eos_ids, self._mesh)
    return self._engines[key]

  @functools.cached_property
  def _decoding(self) -> Any:
    """The parameters in the decode layout, a copy beside those for scoring."""
    return evaluating.laid_out(self._policy, self._engine(0.0, 1.0, 1))

  def _sampled(self, engine: Engine, prompts: Sequence[list[int]],
               limits: Sequence[int]) -> list[str]:
    full = self._cfg.batch - len(prompts)
    prompts = [np.array(ids, np.int32) for ids in prompts]
    ids = [zlib.crc32(prompt.tobytes()) >> 1 for prompt in prompts]
    repeats = []
    for address in ids:  # a repeated prompt gets different samples
      repeats.append(self._asked[engine.cfg, address])
      self._asked[engine.cfg, address] += 1
    rollout = engine.generate(
        self._decoding, self._policy.router_bias_LE,
        prompts + prompts[:1] * full, ids + ids[:1] * full, 1,
        jax.random.key(self._cfg.seed),
        limits_QG=np.array([*limits, *limits[:1] * full])[:, None],
        repeats_Q=repeats + repeats[:1] * full)
    cost.sampled(engine.model.cfg, rollout)
    return [self._text(rollout.completion(row, 0).tolist())
            for row in range(len(prompts))]

  def _text(self, ids: list[int]) -> str:
    ends = bool(ids) and ids[-1] in self.tokenizer.eos_ids
    return self.tokenizer.decode(ids[:-1] if ends else ids)


@dataclasses.dataclass(frozen=True)
class _Asked:
  """Parsed generation arguments of a request."""

  until: tuple[str, ...]
  tokens: int
  temperature: float
  top_p: float

  @classmethod
  def of(cls, kwargs: Mapping[str, Any]) -> _Asked:
    """Parses the arguments; raises ValueError if one is not supported."""
    rest = dict(kwargs)
    until = rest.pop("until", None) or ()
    tokens = rest.pop("max_gen_toks", rest.pop("max_new_tokens", _NEW))
    sampled = rest.pop("do_sample", None)
    temperature = float(rest.pop("temperature", None) or 0.0)
    top_p = float(rest.pop("top_p", None) or 1.0)
    if sampled and not temperature:
      temperature = 1.0
    other = {name: value for name, value in rest.items()
             if value is not None and _NEUTRAL.get(name) != value}
    check(not other, f"a task asks for {other}, which is not supported; a"
          " generation takes until, max_gen_toks, do_sample, temperature and"
          " top_p")
    greedy = sampled is False or not temperature
    return cls((until,) if isinstance(until, str) else tuple(until),
               int(tokens), 0.0 if greedy else temperature,
               1.0 if greedy else top_p)


def language_model(harness: Harness, name: str) -> Any:
  """An `lm_eval.api.model.LM` for `lm_eval.simple_evaluate(model=...)`.

  Args:
    harness: serves the requests.
    name: identifies the tokenizer and its template in the harness's caches.

  Raises:
    ImportError: lm-eval is not installed (the extra `lm-eval`).
  """
  from lm_eval.api import model

  class Ours(model.LM):
    """Forwards all requests."""

    tokenizer_name = name

    def loglikelihood(self, requests):
      return harness.loglikelihood([request.args for request in requests])

    def loglikelihood_rolling(self, requests):
      return harness.rolling([request.args[0] for request in requests])

    def generate_until(self, requests):
      return harness.generate([request.args for request in requests])

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
      return harness.chat(chat_history, add_generation_prompt)

    def chat_template(self, chat_template=False):
      del chat_template  # there is only the model's own
      return harness.tokenizer.chat_template

  return Ours()


def _token_scores(model: Model, params: Any, bias_LE: jax.Array,
                  batch: TokenBatch) -> tuple[jax.Array, jax.Array]:
  """(float32 log-probability, whether it is the argmax) of targets, [B, T]."""
  out = model.forward(params, bias_LE, batch.tokens_BT, batch.positions_BT,
                      batch.segments_BT)
  w_DV = model.head(params).astype(out.hidden_BTD.dtype)
  shape = batch.targets_BT.shape
  chunk = min(_CHUNK, shape[1])  # divides a row: both are powers of two

  def one(part):
    hidden_XD, targets_X = part
    logits_XV = jnp.dot(
        hidden_XD, w_DV, precision=model.compute.products,
        preferred_element_type=jnp.float32)
    chosen_X = jnp.take_along_axis(logits_XV, targets_X[:, None], -1)[:, 0]
    return (chosen_X - jax.nn.logsumexp(logits_XV, -1),
            jnp.argmax(logits_XV, -1) == targets_X)

  logp, best = jax.lax.map(one, (
      out.hidden_BTD.reshape(-1, chunk, out.hidden_BTD.shape[-1]),
      batch.targets_BT.reshape(-1, chunk)))
  return logp.reshape(shape), best.reshape(shape)


def _windows(prefix: int, ids: list[int], length: int
             ) -> Iterator[tuple[list[int], list[int]]]:
  """(context, continuation) pairs that cover every id once.

  Contexts are as long as fits. A beginning-of-sequence id that the tokenizer
  adds is one of the ids, as in the harness.
  """
  for start in range(0, len(ids), length):
    said = ids[start:start + length]
    room = length + 1 - len(said)
    before = [prefix, *ids[:start]]
    yield before[-room:], said


def _cut(text: str, until: Sequence[str]) -> str:
  for stop in until:
    if stop:
      text = text.partition(stop)[0]
  return text
