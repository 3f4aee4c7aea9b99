"""Judges and rewriters by name: a model, an endpoint or a Python function.

A function is `module:function` or `FILE.py:function`, an endpoint is its URL.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from r1jax.checkpoint import fingerprints
from r1jax.core.config import check
from r1jax.models.compute import Compute
from r1jax.rewards import judge as judge_lib
from r1jax.rewards.endpoint import Endpoint, EndpointConfig
from r1jax.rewards.judge import Generate
from r1jax.rewards.score import Score
from r1jax.sharding import processes
from r1jax.stages import replies, tasks
from r1jax.stages.replies import Replier, ReplyConfig
from r1jax.stages.traces import Judged

HELP = ("a model, hf:DIR or orbax:WORKDIR; the URL of an endpoint with OpenAI's"
        " chat completions API; or a function {} as module:function or"
        " FILE.py:function.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
  """Settings of models and endpoints that reply.

  Attributes:
    reply: how a model replies.
    endpoint: how an endpoint is called; its url is replaced by the name.
    key: API key of the endpoint, neither logged nor stored.
    cache: folder that stores an endpoint's replies.
    compute: how a model is computed.
    mesh: the mesh that a model is placed on.
  """

  reply: ReplyConfig = ReplyConfig()
  endpoint: EndpointConfig = EndpointConfig()
  key: str = dataclasses.field(default="", repr=False)
  cache: str | os.PathLike = ""
  compute: Compute | None = None
  mesh: jax.sharding.Mesh | None = None

  def settings(self, name: str) -> dict[str, Any]:
    """All that the replies of `name` depend on, JSON-ready."""
    told: dict[str, Any] = {"name": name}
    if is_model(name):
      told |= dataclasses.asdict(self.reply) | {
          "dtype": self.compute and self.compute.dtype,
          "read": processes.from_writer(lambda: fingerprints.of_model(name))}
      del told["batch"]  # replies do not depend on it
    elif is_endpoint(name):
      told |= {field: getattr(self.endpoint, field)
               for field in ("model", "temperature", "max_tokens")}
    elif (path := pathlib.Path(name.rpartition(":")[0])).suffix == ".py":
      told["program"] = tasks.file_digest(path) if path.exists() else None
    return told


def is_model(name: str) -> bool:
  """Whether `name` is a model."""
  return name.partition(":")[0] in ("hf", "orbax")


def is_endpoint(name: str) -> bool:
  """Whether `name` is an endpoint."""
  return name.startswith(("http://", "https://"))


def replier(name: str, means: Means) -> Replier | Endpoint | None:
  """The model or endpoint `name`; None if it is a function.

  Raises:
    ValueError: there is no such model, or --endpoint.model is missing.
  """
  if is_model(name):
    return replies.load(name, means.reply, means.compute, means.mesh)
  if not is_endpoint(name):
    return None
  check(bool(means.endpoint.model),
        f"{name} is an endpoint: give its model's name, --endpoint.model=NAME")
  return Endpoint(dataclasses.replace(means.endpoint, url=name), key=means.key,
                  cache=means.cache)


def load(name: str) -> Callable[..., Any]:
  """Imports the function `name`; what it raises is a DataError that names it.

  Raises:
    ValueError: there is no such file, module or function.
  """
  where, _, function = name.rpartition(":")
  check(bool(where and function), f"{name!r} is neither hf:DIR, orbax:WORKDIR,"
        " an http(s) URL, module:function nor FILE.py:function")
  with tasks.told(f"{name} cannot be imported"):
    if where.endswith(".py"):
      path = pathlib.Path(where)
      spec = importlib.util.spec_from_file_location(path.stem, path)
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
    else:
      module = importlib.import_module(where)
  program = getattr(module, function, None)
  check(callable(program), f"{where} has no function {function!r}")

  @functools.wraps(program)
  def called(*arguments: Any, **options: Any) -> Any:
    with tasks.told(f"{name} fails"):
      return program(*arguments, **options)

  return called


def judge(name: str, generate: Generate | None, *, seed: int = 0) -> Judged:
  """A judge of answers that no rule can judge.

  A model or an endpoint is asked whether an answer agrees with the reference
  (`rewards.judge.correct`). A function maps (prompt, answer) to whether the
  answer is right, None if it cannot tell. Answers have no thoughts.

  Args:
    name: the judge's name.
    generate: what `replier` returns for it.
    seed: of the delimiters in the judge's prompt.

  Raises:
    ValueError: there is no such function.
  """
  if generate is None:
    function = load(name)
    return lambda prompts, answers: [
        _said(function(p, answer)) for p, answer in zip(prompts, answers)]
  return lambda prompts, answers: judge_lib.correct(
      generate, [p.question for p in prompts],
      [str(p.reference) for p in prompts], answers, seed=seed)


def _said(value: bool | None) -> Score:
  if value is None:
    return Score(0.0, False, "no verdict")
  return Score(float(value), True, "correct" if value else "wrong")
