"""Reward models in the loop: questions and texts to numbers, on the device.

What travels is text. A reward model has a tokenizer and a template of its own;
the policy's ids mean nothing to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.data.streams import preference, sft
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models.compute import Compute
from r1jax.rewards.combine import RewardConfig
from r1jax.rewards.models import HELPFUL, SAFETY, SUMMARY, TEXT, Scorer
from r1jax.stages import reward_weights
from r1jax.stages import weights as weights_lib
from r1jax.stages.scoring import Scoring
from r1jax.stages.weights import Weights
from r1jax.training import reshard

# Paper (A2 B.3): the helpful model judges the final summary alone, the safety
# model the whole output.
SHOWN = {HELPFUL: SUMMARY, SAFETY: TEXT}


class Asked:
  """A `rewards.models.RewardModel` that computes here.

  Its parameters lie on the mesh as training lays them, in the compute dtype,
  or on the host between two calls.
  """

  def __init__(self, weights: Weights, tokenizer: Tokenizer, template: str,
               scoring: Scoring, *, offload: bool = False):
    """Takes the model.

    Args:
      weights: of the model, given up.
      tokenizer: its own.
      template: how a conversation becomes text, as it was trained.
      scoring: of its model.
      offload: whether it waits in host memory.
    """
    self.tokenizer, self.template = tokenizer, template
    self._scoring, self._offload = scoring, offload
    self._bias_LE = weights.router_bias_LE
    self._params = weights_lib.computing(weights, scoring.mesh).params
    self._eos_id = sft.end_of_answer(template, tokenizer)
    self._rest()

  def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]
               ) -> list[float]:
    """A score for each; NaN where the template refuses a conversation, or it is
    longer than the model's context."""
    ids = [self._ids(prompt, text) for prompt, text in zip(
        prompts, texts, strict=True)]
    self._params = reshard.on(self._params, reshard.DEVICE)
    scores = self._scoring(self._params, self._bias_LE, ids)
    self._rest()
    return [float(score) for score in scores]

  def _ids(self, prompt: Prompt, text: str) -> np.ndarray:
    messages = [*prompt.messages, {"role": "assistant", "content": text}]
    try:
      return preference.encode(
          messages, self.template, self.tokenizer, self._eos_id)[0]
    except ValueError:
      # One prompt that its template refuses must not end a run.
      return np.zeros(0, np.int32)

  def _rest(self) -> None:
    if self._offload:
      self._params = reshard.on(self._params, reshard.HOST)


def load(rewards: RewardConfig, compute: Compute,
         mesh: jax.sharding.Mesh | None = None, *, offload: bool = False
         ) -> dict[str, Scorer]:
  """The reward models that the config names, for `judging.judge`.

  Args:
    rewards: names them.
    compute: how they are computed.
    mesh: where they lie.
    offload: whether they wait in host memory.

  Raises:
    ValueError: one is missing, unfinished, or no reward model.
  """
  devices = 1 if mesh is None else len(mesh.devices.flat)
  scorers = {}
  for name, init in named(rewards).items():
    about = reward_weights.about(init)
    weights, tokenizer = reward_weights.with_tokenizer(
        init, compute, mesh=mesh)
    rows = -(-rewards.model_rows // devices) * devices
    length = min(about.get("row_length", 256), weights.model.cfg.max_position)
    scoring = Scoring(weights.model, rows, length, mesh, parts=True)
    template = templates.read(preference.template_for(
        about.get("template", preference.AUTO), tokenizer))
    scorers[name] = Scorer(
        model=Asked(weights, tokenizer, template, scoring, offload=offload),
        shown=SHOWN[name], blank=float(about["blank"]))
  return scorers


def named(rewards: RewardConfig) -> Mapping[str, str]:
  """Where the config's reward models come from, by name."""
  given = {HELPFUL: rewards.helpful, SAFETY: rewards.safety}
  return {name: init for name, init in given.items() if init}


def digests(rewards: RewardConfig) -> dict[str, str]:
  """Of what every model's folder says of it: a run goes on with the same ones.

  The validation in it follows from the parameters, to the last digit.
  """
  def digest(about: Mapping[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  return {name: digest(reward_weights.about(init))
          for name, init in named(rewards).items()}
