"""Reward models during RL: from questions and texts to scores.

They take text, not the policy's token ids, because a reward model has its own
tokenizer and template.
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

# Paper (A2 B.3): the helpful model reads only the final summary, the safety
# model the whole output.
SHOWN = {HELPFUL: SUMMARY, SAFETY: TEXT}


class Asked:
  """A `rewards.models.RewardModel` that runs on this process's devices.

  Its parameters have the training layout and the compute dtype; between calls
  they can be in host memory.
  """

  def __init__(self, weights: Weights, tokenizer: Tokenizer, template: str,
               scoring: Scoring, *, offload: bool = False):
    """Places the parameters.

    Args:
      weights: the model; its arrays are moved.
      tokenizer: its tokenizer.
      template: the template that it was trained with.
      scoring: scores conversations with the model.
      offload: whether parameters are in host memory between calls.
    """
    self.tokenizer, self.template = tokenizer, template
    self._scoring, self._offload = scoring, offload
    self._bias_LE = weights.router_bias_LE
    self._params = weights_lib.computing(weights, scoring.mesh).params
    self._eos_id = sft.end_of_answer(template, tokenizer)
    self._rest()

  def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]
               ) -> list[float]:
    """A score for each text.

    NaN if the template rejects the conversation or it is longer than the
    model's context.
    """
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
      # A prompt that the template rejects must not end the run.
      return np.zeros(0, np.int32)

  def _rest(self) -> None:
    if self._offload:
      self._params = reshard.on(self._params, reshard.HOST)


def load(rewards: RewardConfig, compute: Compute,
         mesh: jax.sharding.Mesh | None = None, *, offload: bool = False
         ) -> dict[str, Scorer]:
  """Loads the reward models that the config names, for `judging.judge`.

  Args:
    rewards: names them.
    compute: how they are computed.
    mesh: the mesh that they are placed on; None for one device.
    offload: whether they are in host memory between calls.

  Raises:
    ValueError: one is missing, unfinished, or not a reward model.
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
  """The sources of the config's reward models, by name."""
  given = {HELPFUL: rewards.helpful, SAFETY: rewards.safety}
  return {name: init for name, init in given.items() if init}


def digests(rewards: RewardConfig) -> dict[str, str]:
  """A digest of every model's reward.json, to detect another model on resume.

  The validation in it depends on the parameters to the last digit.
  """
  def digest(about: Mapping[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  return {name: digest(reward_weights.about(init))
          for name, init in named(rewards).items()}
