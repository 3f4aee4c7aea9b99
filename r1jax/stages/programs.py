"""A model or a program of the user's, by name: judges and rewriters.

A program is `module:function` or `FILE.py:function`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from r1jax.core.config import check
from r1jax.models.compute import Compute
from r1jax.rewards import judge as judge_lib
from r1jax.rewards.score import Score
from r1jax.stages import replies
from r1jax.stages.replies import ReplyConfig
from r1jax.stages.traces import Judged

HELP = ("hf:DIR or orbax:WORKDIR, a model that replies, or a function {} as"
        " module:function or FILE.py:function.")


def is_model(name: str) -> bool:
  """Whether `name` is one of a model, not of a program."""
  return name.partition(":")[0] in ("hf", "orbax")


def load(name: str) -> Callable[..., Any]:
  """The function that `name` names.

  Raises:
    ValueError: there is no such file, module or function.
  """
  where, _, function = name.rpartition(":")
  check(bool(where and function), f"{name!r} is neither hf:DIR, orbax:WORKDIR,"
        " module:function nor FILE.py:function")
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


def judge(name: str, cfg: ReplyConfig, compute: Compute | None = None,
          mesh: jax.sharding.Mesh | None = None) -> Judged:
  """Of answers where no rule can judge.

  A model is asked whether an answer agrees with the reference
  (`rewards.judge.correct`). A program is a function (prompt, answer) -> whether
  it is right, None where it cannot tell. Answers come without their thoughts.

  Args:
    name: of the model or program.
    cfg: how a model replies.
    compute: how it is computed.
    mesh: where.

  Raises:
    ValueError: there is no such model or program.
  """
  if not is_model(name):
    function = load(name)
    return lambda prompts, answers: [
        _said(function(p, answer)) for p, answer in zip(prompts, answers)]
  generate = replies.from_model(name, cfg, compute, mesh)
  return lambda prompts, answers: judge_lib.correct(
      generate, [p.question for p in prompts],
      [str(p.reference) for p in prompts], answers, seed=cfg.seed)


def _said(value: bool | None) -> Score:
  if value is None:
    return Score(0.0, False, "no verdict")
  return Score(float(value), True, "correct" if value else "wrong")
