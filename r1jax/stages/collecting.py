"""Collects the samples and verdicts of one GRPO step; dynamic sampling."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored
from r1jax.sharding import processes
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.judging import Judge
from r1jax.training.advantages import AdvantageConfig, group_advantages

# (questions, how often each was sampled before in this step,
# ended=called with a question's index, a sample's number and its token ids once
# it has ended)
# -> all samples.
Generate = Callable[..., Rollout]


class Collected(NamedTuple):
  """What a step trains on.

  Attributes:
    rollout: this process's samples.
    verdicts: () -> the verdicts; blocks until they are there.
    metrics: of dynamic sampling; {} if it is off.
    waited: seconds spent waiting for verdicts between rounds.
  """

  rollout: Rollout
  verdicts: Callable[[], Scored]
  metrics: dict[str, float]
  waited: float


def collect(cfg: GrpoConfig, stream: Iterator[list[Prompt]],
            generate: Generate, judge: Judge, done: list[Rollout],
            interrupted: Callable[[], bool]) -> Collected | None:
  """Samples the step's questions; judges each sample as soon as it has ended.

  With `dynamic_tries`, groups whose rewards are all equal, from which nothing
  is learned, are replaced by groups of new questions (DAPO, arXiv:2503.14476,
  section 3.2). Every round samples as many questions as a step has, so that all
  rounds have the same shapes, and the first groups with variance are kept. If
  some are still missing after the last round, groups without variance fill up.

  Args:
    cfg: the settings.
    stream: batches of questions.
    generate: samples this process's questions.
    judge: judges the samples.
    done: this step's rollouts from before an interruption; new ones are added.
    interrupted: whether to stop.

  Returns:
    None if it was interrupted; `done` then has the rounds so far.
  """
  asked: collections.Counter = collections.Counter()
  rounds: list[Scored] = []
  waited = 0.0
  for number in range(1 + cfg.dynamic_tries):
    questions = next(stream)
    repeats = []
    for prompt in questions:
      repeats.append(asked[prompt.id])
      asked[prompt.id] += 1
    questions, repeats = (processes.part(x, "questions")
                          for x in (questions, repeats))
    judging = judge.begin(questions)
    if number == len(done):
      done.append(generate(questions, repeats, ended=judging.ended))
    if interrupted():
      return None
    verdicts = judging.submit(done[number])
    if not cfg.dynamic_tries:
      return Collected(done[number], verdicts, {}, waited)
    began = time.perf_counter()
    rounds.append(verdicts())
    waited += time.perf_counter() - began
    wanted = len(questions)
    missing, = processes.largest(wanted - sum(_varied(s).sum() for s in rounds))
    if missing <= 0:
      break
  varied_Q = np.concatenate([_varied(scored) for scored in rounds])
  # Groups with variance first, each kind in the order it was sampled.
  order = np.argsort(~varied_Q, kind="stable")[:wanted]
  scored = _taken(rounds, np.sort(order))
  return Collected(scored.rollout, lambda: scored, {
      "dynamic/rounds": float(len(rounds)),
      "dynamic/varied_fraction": float(varied_Q.mean()),
      "dynamic/filled_fraction": float((~varied_Q[order]).mean())}, waited)


def _varied(scored: Scored) -> np.ndarray:
  """bool [Q]: groups whose rewards, without length penalties, differ."""
  return ~group_advantages(
      scored.rewards_QG, scored.valid_QG, scored.rollout.truncated_QG,
      AdvantageConfig()).zero_variance_Q


def _taken(rounds: Sequence[Scored], picks: np.ndarray) -> Scored:
  """The groups `picks` of all rounds, as those of one rollout."""
  def joined(values: Sequence[Any]) -> Any:
    if values[0] is None:
      return None
    if isinstance(values[0], np.ndarray):
      return np.concatenate(values)[picks]
    whole = [item for value in values for item in value]
    return tuple(whole[pick] for pick in picks)

  rollouts = _aligned([scored.rollout for scored in rounds])
  rollout = Rollout(**{
      field.name: joined([getattr(r, field.name) for r in rollouts])
      for field in dataclasses.fields(Rollout)})
  names = dict.fromkeys(name for scored in rounds for name in scored.parts)
  absent = [np.full(scored.rewards_QG.shape, np.nan, np.float32)
            for scored in rounds]
  parts = {name: joined([s.parts.get(name, nan) for s, nan in zip(
      rounds, absent)]) for name in names}
  rest = {field.name: joined([getattr(s, field.name) for s in rounds])
          for field in dataclasses.fields(Scored)
          if field.name not in ("rollout", "parts")}
  return Scored(rollout=rollout, parts=parts, **rest)


def _aligned(rollouts: Sequence[Rollout]) -> list[Rollout]:
  """Pads the prompts' part of recorded experts to one length in all rounds."""
  if rollouts[0].experts_QGSLA is None:
    return list(rollouts)
  slots = max(r.experts_QGSLA.shape[2] for r in rollouts)

  def padded(rollout: Rollout) -> Rollout:
    experts = rollout.experts_QGSLA
    prompt = experts.shape[2] - rollout.tokens_QGT.shape[2]
    room = np.zeros((*experts.shape[:2], slots - experts.shape[2],
                     *experts.shape[3:]), experts.dtype)
    return dataclasses.replace(rollout, experts_QGSLA=np.concatenate(
        [experts[:, :, :prompt], room, experts[:, :, prompt:]], 2))

  return [padded(rollout) for rollout in rollouts]
