"""Who judges or rewrites, by name: a model, an endpoint or a program.

A program is `module:function` or `FILE.py:function`; an endpoint is its URL.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from r1jax.core.config import check
from r1jax.models.compute import Compute
from r1jax.rewards import judge as judge_lib
from r1jax.rewards.endpoint import Endpoint, EndpointConfig
from r1jax.rewards.judge import Generate
from r1jax.rewards.score import Score
from r1jax.stages import replies
from r1jax.stages.replies import Replier, ReplyConfig
from r1jax.stages.traces import Judged

HELP = ("hf:DIR or orbax:WORKDIR, a model that replies; the URL of an endpoint"
        " that speaks OpenAI's chat completions; or a function {} as"
        " module:function or FILE.py:function.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
  """How those who reply are reached, whichever of them a name names.

  Attributes:
    reply: how a model replies.
    endpoint: how an endpoint is asked; its url is the name.
    key: of the endpoint, neither logged nor stored.
    cache: folder where an endpoint's answers are kept.
    compute: how a model is computed.
    mesh: where.
  """

  reply: ReplyConfig = ReplyConfig()
  endpoint: EndpointConfig = EndpointConfig()
  key: str = dataclasses.field(default="", repr=False)
  cache: str | os.PathLike = ""
  compute: Compute | None = None
  mesh: jax.sharding.Mesh | None = None

  def settings(self, name: str) -> dict[str, Any]:
    """What the replies of `name` depend on, JSON-ready."""
    told: dict[str, Any] = {"name": name}
    if is_model(name):
      told |= dataclasses.asdict(self.reply)
      del told["batch"]  # a reply is the same in any
    elif is_endpoint(name):
      told |= {field: getattr(self.endpoint, field)
               for field in ("model", "temperature", "max_tokens")}
    return told


def is_model(name: str) -> bool:
  """Whether `name` is one of a model."""
  return name.partition(":")[0] in ("hf", "orbax")


def is_endpoint(name: str) -> bool:
  """Whether `name` is one of an endpoint."""
  return name.startswith(("http://", "https://"))


def replier(name: str, means: Means) -> Replier | Endpoint | None:
  """The model or the endpoint that `name` names; None where it is a program.

  Raises:
    ValueError: there is no such model, or an endpoint's model has no name.
  """
  if is_model(name):
    return replies.load(name, means.reply, means.compute, means.mesh)
  if not is_endpoint(name):
    return None
  check(bool(means.endpoint.model),
        f"{name} has models by name: give --endpoint.model=NAME")
  return Endpoint(dataclasses.replace(means.endpoint, url=name), key=means.key,
                  cache=means.cache)


def load(name: str) -> Callable[..., Any]:
  """The function that `name` names.

  Raises:
    ValueError: there is no such file, module or function.
  """
  where, _, function = name.rpartition(":")
  check(bool(where and function), f"{name!r} is neither hf:DIR, orbax:WORKDIR,"
        " an http(s) URL, module:function nor FILE.py:function")
  try:
    if where.endswith(".py"):
      path = pathlib.Path(where)
      spec = importlib.util.spec_from_file_location(path.stem, path)
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
    else:
      module = importlib.import_module(where)
  except (ModuleNotFoundError, FileNotFoundError) as error:
    raise ValueError(f"{name}: {error}") from error
  program = getattr(module, function, None)
  check(callable(program), f"{where} has no function {function!r}")
  return program


def judge(name: str, generate: Generate | None, *, seed: int = 0) -> Judged:
  """Of answers where no rule can judge.

  A model or an endpoint is asked whether an answer agrees with the reference
  (`rewards.judge.correct`). A program is a function (prompt, answer) -> whether
  it is right, None where it cannot tell. Answers come without their thoughts.

  Args:
    name: of the judge.
    generate: what `replier` gives for it.
    seed: of the marks around the texts that are shown.

  Raises:
    ValueError: there is no such program.
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
