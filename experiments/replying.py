"""Flags of judges and rewriters: models, endpoints, programs by their names."""

from __future__ import annotations

import os

from absl import flags
from etils import epath

from r1jax.rewards.endpoint import Endpoint, EndpointConfig
from r1jax.stages.programs import Means
from r1jax.stages.replies import Replier, ReplyConfig

from . import common, flagset

ENDPOINT = flagset.define(EndpointConfig, "endpoint")
KEY = flags.DEFINE_string(
    "endpoint_key", "", "API key of the endpoint; default:"
    " OPENAI_API_KEY.")
ANSWERS = "answers"  # folder of what an endpoint said
_SHOWN = 5  # reasons


def means(reply: ReplyConfig, folder: str | os.PathLike) -> Means:
  """What the flags say.

  Args:
    reply: of a model, which has flags of its own for each purpose.
    folder: of the command; it keeps what an endpoint answers.
  """
  return Means(
      reply=reply, endpoint=ENDPOINT.value(),
      cache=epath.Path(folder) / ANSWERS,
      key=key(),
      compute=common.COMPUTE.value(), mesh=common.mesh())


def key() -> str:
  """Of endpoints."""
  return KEY.value or os.environ.get("OPENAI_API_KEY", "")


def report(name: str, generate: Replier | Endpoint | None) -> None:
  """Prints what a model or an endpoint did not answer, and why."""
  if isinstance(generate, Endpoint):
    print(f"{name}: {generate.asked} queries sent, {generate.cached} were"
          " answered before", flush=True)
  failures = generate.failures.most_common(_SHOWN) if generate else []
  for reason, count in failures:
    print(f"{name}: {count} without an answer: {reason}", flush=True)
