"""Evaluates a policy: samples with the engine, judges, computes statistics.

All problems are in the engine's queue at once, so that its rows stay full.
Samples are judged as they end and stored batch by batch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from r1jax.accounting import cost
from r1jax.core import config as config_lib
from r1jax.core import io, keys
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored, joined
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.evals import runner
from r1jax.evals.runner import EvalResult, Item, Rows
from r1jax.models.model import Model
from r1jax.report import rollouts
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import processes
from r1jax.stages.judging import Judge
from r1jax.stages.loop import batches as batches_lib
from r1jax.stages.weights import Weights
from r1jax.training import reshard

# Folded into the key, so that evaluations draw other samples than training.
_STREAM = 2**31
SAMPLES = "samples"  # folder of what `collect` stores
_ROWS = 256  # samples decoded at once if devices do not report free memory
_BATCH = 256  # samples per stored batch, or those of one problem if more
_HELD = 2**27  # most samples x max_new_tokens of one call of the engine


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """How to sample; the paper: T = 0.6, top-p 0.95, 64 samples on AIME."""

  samples: int = 16  # samples per problem, for pass@1 and majority voting
  # Most samples decoded at once, in all processes together; 0: as many as fit
  # the devices' free memory, or 256 if they do not report it (CPUs). Changes no
  # sample.
  max_rows: int = 0
  temperature: float = 0.6  # sampling temperature; 1: as in training; 0: greedy
  top_p: float = 0.95  # nucleus: smallest set of tokens with this probability
  max_new_tokens: int = 96  # longest completion, in tokens
  seed: int = 0  # seed of the samples

  def __post_init__(self):
    check(self.samples > 0, f"samples={self.samples} must be positive")
    for name in ("max_rows", "seed"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} must not be negative")

  @property
  def batch(self) -> int:
    """Problems that are stored together."""
    return max(1, _BATCH // self.samples)

  def settings(self) -> dict[str, Any]:
    """The settings that samples depend on, JSON-ready."""
    settings = dataclasses.asdict(self)
    del settings["max_rows"]
    return settings


class Group(NamedTuple):
  """All samples of one problem.

  Attributes:
    batch, question: index of the batch, and of the problem in it.
    rollout: rollout of this problem alone.
    texts: the completions, if the model gave texts instead of tokens.
  """

  batch: int
  question: int
  rollout: Rollout
  texts: Sequence[str] | None = None


# Takes this process's part of batches of problems, of the same size in all
# processes; yields after each decoding call the groups that it completed,
# perhaps none.
Sample = Callable[[Sequence[Sequence[Prompt]]], Iterator[list[Group]]]


def evaluate(cfg: EvalConfig, engine: Engine, judge: Judge, params: Any,
             bias_LE: jax.Array, prompts: Sequence[Prompt], *, step: int = 0,
             path: str | os.PathLike | None = None, name: str = "evaluate",
             progress: bool = True,
             interrupted: Callable[[], bool] = lambda: False
             ) -> EvalResult | None:
  """Samples every problem cfg.samples times, judges, computes statistics.

  Args:
    cfg: number of samples and seed; temperature, top-p and length are the
      engine's.
    engine: made by `sampler` for the policy's model.
    judge: words the questions and judges the answers.
    params: the policy's parameters in the decode layout, see `laid_out`.
    bias_LE: its router bias, float32 [L, E].
    prompts: the problems.
    step: training step, folded into the samples' randomness.
    path: where to store the generations, or None.
    name: title of the progress bar.
    progress: whether to show it.
    interrupted: called before each decoding call; True ends the evaluation.

  Returns:
    The result; None if interrupted.
  """
  sample = generating(cfg, engine, judge, params, bias_LE, step)
  with cost.phase("evaluate"):
    return runner.evaluate(
        prompts, answers(sample, judge), batch_size=cfg.batch, path=path,
        name=name, progress=progress and processes.is_writer(),
        interrupted=interrupted)


def collect(cfg: EvalConfig, sample: Sample, judge: Judge,
            prompts: Sequence[Prompt], folder: str | os.PathLike, *,
            title: str = "evaluate", ruled: bool = True
            ) -> list[dict[str, Any]] | None:
  """Samples like `evaluate`, and stores each batch as it is completed.

  Batches that `folder` has already are read, so that a killed run resumes. The
  samples are the same either way, and the same as those of `evaluate`.

  Args:
    cfg: number of samples of a problem, which sets the batch size.
    sample: made by `generating`.
    judge: words the questions and judges the answers.
    prompts: the problems.
    folder: gets the folder `samples` and the record of the cost.
    title: title of the progress bar.
    ruled: see `runner.of_problems`.

  Returns:
    A row for every problem, as `runner.of_problems` makes them, with "tail",
    the beginning of the answers that the template gives; None after a signal.

  Raises:
    ValueError: no prompts, or the folder has other questions.
  """
  runner.check(prompts, cfg.batch)
  folder = epath.Path(folder) / SAMPLES
  items = list(enumerate(prompts))
  if not batches_lib.store_all(
      folder, items, cfg.batch, answers(sample, judge, ruled=ruled),
      title=title, unit="problems"):
    return None
  rows = list(batches_lib.read(folder, len(prompts), cfg.batch))
  for row, prompt in zip(rows, prompts, strict=True):
    check(row["id"] == prompt.id and row["question"] == prompt.question,
          f"{folder} has the question {row['question'][:60]!r} where the data"
          f" has {prompt.question[:60]!r}; the data has changed since: choose"
          " another folder")
  return runner.once(rows, prompts)


def write(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> None:
  """Writes the generations of all processes, known to each, as one file."""
  def one():
    runner.store(path, rows)
    rollouts.remove_beyond(path, 1)

  processes.from_writer(one)


def answers(sample: Sample, judge: Judge, *, ruled: bool = True
            ) -> runner.Answers:
  """A function from batches of problems to rows with "tail"; see `collect`."""
  def rows(items: Sequence[Item], scored: Scored) -> Rows:
    found = runner.of_problems(scored, items, ruled=ruled) if items else []
    return [row | {"tail": judge.tail(prompt)}
            for row, (_, prompt) in zip(found, items, strict=True)]

  return rows_of(sample, judge, rows)


def rows_of(sample: Sample, judge: Judge,
            rows: Callable[[Sequence[Item], Scored], Rows]) -> runner.Answers:
  """A function from batches of problems to what `rows` makes of each.

  Args:
    sample, judge: see `judged`.
    rows: called in all processes with a batch's problems that this one has,
      perhaps none, and their verdicts.
  """
  def work(batches: Sequence[Sequence[Item]]) -> Iterator[Rows | None]:
    for found in judged(sample, judge, batches):
      yield found and rows(*found)

  return work


def judged(sample: Sample, judge: Judge, batches: Sequence[Sequence[Item]]
           ) -> Iterator[tuple[Sequence[Item], Scored] | None]:
  """Samples and judges problems, and yields them batch by batch.

  Judging starts as groups end. A batch is yielded when all verdicts of its
  rules are there, or when nothing is left to sample: decoding waits for rules
  only if the pool is full.

  Args:
    sample: made by `generating`.
    judge: judges the answers.
    batches: the batches of all processes.

  Returns:
    Iterator of (this process's problems of a batch, perhaps none, with their
    numbers; their verdicts), and of None after every decoding call.
  """
  parts = [_part(batch) for batch in batches]
  # Reward models score in all processes together: a process without a problem
  # of the batch scores a copy of one.
  begun = [judge.begin([p for _, p in own or asked[:1]])
           for asked, own in parts]
  wanted = [max(1, len(own)) for _, own in parts]
  groups: list[dict[int, Rollout]] = [{} for _ in parts]
  at = 0

  def finished():
    rollouts = groups[at]
    scored = begun[at].submit(
        joined([rollouts[q] for q in range(len(rollouts))]))()
    groups[at], begun[at] = {}, None
    return parts[at][1], scored

  for complete in sample([[p for _, p in asked] for asked, _ in parts]):
    for group in complete:
      if group.question < wanted[group.batch]:
        groups[group.batch][group.question] = group.rollout
        for number, text in enumerate(
            group.texts or judge.texts(group.rollout)[0]):
          begun[group.batch].add(group.question, number, text)
    while at < len(parts) and not processes.largest(
        int(len(groups[at]) < wanted[at] or not begun[at].judged()))[0]:
      yield finished()
      at += 1
    yield None
  while at < len(parts):
    yield finished()
    at += 1


def _part(batch: Sequence[Item]) -> tuple[list[Item], list[Item]]:
  """(problems of a batch that this process samples, those of them that count).

  All processes sample the same number: the last problem of the batch is
  repeated for those with fewer.
  """
  count = jax.process_count()
  filled = list(batch) + [batch[-1]] * (-len(batch) % count)
  numbers = processes.part(range(len(filled)), "problems of a batch")
  return ([filled[n] for n in numbers],
          [filled[n] for n in numbers if n < len(batch)])


def generating(cfg: EvalConfig, engine: Engine, judge: Judge, params: Any,
               bias_LE: jax.Array, step: int = 0) -> Sample:
  """`sampling` with the key of an evaluation at a step; see `evaluate`."""
  key = keys.fold(jax.random.key(cfg.seed), _STREAM, step)
  return sampling(cfg, engine, judge, params, bias_LE, key)


def sampling(cfg: EvalConfig, engine: Engine, judge: Judge, params: Any,
             bias_LE: jax.Array, key: jax.Array) -> Sample:
  """A function that samples the problems of all batches through one queue.

  Args:
    cfg: number of samples.
    engine: made by `sampler` for the policy's model.
    judge: words the questions.
    params: the policy's parameters in the decode layout, see `laid_out`.
    bias_LE: its router bias, float32 [L, E].
    key: random key of the samples.
  """
  def sample(batches):
    # The host holds the samples of a call in arrays of max_new_tokens each.
    problems = max(1, _HELD // (cfg.max_new_tokens * cfg.samples))
    some = max(1, problems // max(map(len, batches), default=1))
    for first in range(0, len(batches), some):
      places = [(first + b, q) for b, batch in enumerate(
          batches[first:first + some]) for q in range(len(batch))]
      prompts = [batches[b][q] for b, q in places]
      for complete in engine.groups(
          params, bias_LE, [judge.tokens(p) for p in prompts],
          [p.id for p in prompts], cfg.samples, key):
        for _, rollout in complete:
          cost.sampled(engine.model.cfg, rollout)
        yield [Group(*places[i], rollout) for i, rollout in complete]

  return sample


def sampler(cfg: EvalConfig, model: Model, tokenizer: Tokenizer,
            mesh: jax.sharding.Mesh | None = None) -> Engine:
  """An engine with the sampling settings of `cfg`."""
  return Engine(model, SamplingConfig(
      temperature=cfg.temperature, top_p=cfg.top_p,
      max_new_tokens=cfg.max_new_tokens, vocab=tokenizer.vocab_size),
      tokenizer.eos_ids, mesh, max_rows=cfg.max_rows or None, untold=_ROWS)


def once(cfg: EvalConfig, engine: Engine, judge: Judge, policy: Weights,
         prompts: Sequence[Prompt], folder: str | os.PathLike, name: str
         ) -> EvalResult:
  """Runs `evaluate` and stores the result in `folder`, or reads it from there.

  Args:
    cfg, engine, judge, prompts: see `evaluate`.
    policy: the model.
    folder: gets NAME.json, the result, and NAME.jsonl.gz, the generations.
    name: name of the model, NAME.
  """
  path = epath.Path(folder) / f"{name}.json"
  saved = processes.from_writer(
      lambda: io.read_json(path) if path.exists() else None)
  if saved:
    result = config_lib.from_dict(EvalResult, saved)
    return dataclasses.replace(result, pass_k={
        int(k): share for k, share in result.pass_k.items()})  # JSON keys: text
  result = evaluate(
      cfg, engine, judge, laid_out(policy, engine), policy.router_bias_LE,
      prompts, path=epath.Path(folder) / f"{name}.jsonl.gz",
      name=f"evaluate {name}")
  processes.from_writer(
      lambda: io.write_json(path, dataclasses.asdict(result)))
  return result


def laid_out(policy: Weights, engine: Engine, *, donate: bool = False) -> Any:
  """The policy's parameters in the decode layout, sharded as the engine reads.

  Args:
    policy: the model.
    engine: the engine that will sample from it.
    donate: give up the policy's own arrays, so that there is only one copy.
  """
  way = reshard.Decoding(policy.model, engine.mesh, policy.params)
  return way.there(policy.params, donate=donate)


def during(cfg: EvalConfig, engine: Engine, judge: Judge,
           prompts: Sequence[Prompt], workdir: str | os.PathLike
           ) -> Callable[..., dict[str, float] | None]:
  """The evaluation during training, as `grpo.run` takes it.

  Args:
    cfg, engine, judge, prompts: see `evaluate`.
    workdir: folder of the run, where the generations are stored.

  Returns:
    A function (params, router_bias_LE, step, interrupted) -> metrics for the
    log, or None if interrupted; `interrupted` is optional.
  """
  def run(params, bias_LE, step, interrupted=lambda: False):
    result = evaluate(
        cfg, engine, judge, params, bias_LE, prompts, step=step,
        path=rollouts.path(workdir, step, rollouts.EVALUATIONS),
        progress=False, interrupted=interrupted)
    return None if result is None else metrics(result)

  return run


def metrics(result: EvalResult) -> dict[str, float]:
  """The metrics of an evaluation by their names in the log."""
  numbers = {
      "eval/pass1": result.pass1, "eval/pass1_low": result.pass1_low,
      "eval/pass1_high": result.pass1_high, "eval/maj": result.maj_k,
      "eval/k": result.n_samples, "eval/length_mean": result.mean_length,
      "eval/truncated_fraction": result.truncated,
      "eval/invalid": result.invalid}
  if result.format is not None:
    numbers["eval/format"] = result.format
  for level, pass1 in result.by_level.items():
    numbers[f"eval/level_{level}"] = pass1
  if len(result.by_domain) > 1:
    for domain, pass1 in result.by_domain.items():
      numbers[f"eval/domain_{domain}"] = pass1
  return numbers
