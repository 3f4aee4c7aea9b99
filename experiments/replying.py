"""Flags of judges and rewriters that are models or endpoints."""

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
ANSWERS = "answers"  # folder of an endpoint's stored replies
_SHOWN = 5  # reasons of failures that `report` prints


def means(reply: ReplyConfig, folder: str | os.PathLike) -> Means:
  """The settings of the flags.

  Args:
    reply: how a model replies, whose flags depend on the purpose.
    folder: the command's folder, where an endpoint's replies are stored.
  """
  return Means(
      reply=reply, endpoint=ENDPOINT.value(),
      cache=epath.Path(folder) / ANSWERS,
      key=key(),
      compute=common.COMPUTE.value(), mesh=common.mesh())


def key() -> str:
  """The endpoint's API key."""
  return KEY.value or os.environ.get("OPENAI_API_KEY", "")


def report(name: str, generate: Replier | Endpoint | None) -> None:
  """Prints how many queries a model or an endpoint did not answer, and why."""
  if isinstance(generate, Endpoint):
    print(f"{name}: {generate.asked} queries sent, {generate.cached} answered"
          " from the cache", flush=True)
  failures = generate.failures.most_common(_SHOWN) if generate else []
  for reason, count in failures:
    print(f"{name}: {count} without an answer: {reason}", flush=True)
