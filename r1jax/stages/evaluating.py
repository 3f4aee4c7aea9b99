"""Evaluating a policy: engine and judge around the estimators."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from r1jax.accounting import cost
from r1jax.core import config as config_lib
from r1jax.core import io, keys
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.evals import runner
from r1jax.evals.runner import EvalResult
from r1jax.models.model import Model
from r1jax.report import rollouts
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import processes
from r1jax.stages.judging import Judge
from r1jax.stages.loop import batches
from r1jax.stages.weights import Weights
from r1jax.training import reshard

# Evaluation draws other samples than training at every step.
_STREAM = 2**31
SAMPLES = "samples"  # folder of what `collect` stores


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """How much to sample; the paper: T=0.6, top-p 0.95, 64 samples on AIME."""

  samples: int = 16  # samples per problem, for pass@1 and majority voting
  batch: int = 16  # problems sampled at once
  temperature: float = 0.6  # sampling temperature; 1: as in training; 0: greedy
  top_p: float = 0.95  # nucleus: smallest set of tokens with this probability
  max_new_tokens: int = 96  # longest completion, in tokens
  seed: int = 0  # seed of the samples

  def __post_init__(self):
    check(min(self.samples, self.batch) > 0,
          f"samples={self.samples} and batch={self.batch} must be positive")


def evaluate(cfg: EvalConfig, engine: Engine, judge: Judge, params: Any,
             bias_LE: jax.Array, prompts: Sequence[Prompt], *, step: int = 0,
             path: str | os.PathLike | None = None, name: str = "evaluate",
             progress: bool = True,
             interrupted: Callable[[], bool] = lambda: False
             ) -> EvalResult | None:
  """Samples every problem cfg.samples times and summarises.

  Args:
    cfg: how much; its sampling settings are the engine's business.
    engine: of the policy's model.
    judge: phrases and judges.
    params: the policy.
    bias_LE: its router bias.
    prompts: the problems.
    step: part of the address of the samples' randomness.
    path: where to store the generations, or None.
    name: of the progress bar.
    progress: whether to show it.
    interrupted: asked before each batch; if it is so, the result is None.
  """
  generate = generating(cfg, engine, judge, params, bias_LE, step)

  def score(rollout, batch, texts):
    return judge.submit(rollout, batch, texts)()

  with cost.phase("evaluate"):
    return runner.evaluate(
        prompts, generate, score, batch_size=cfg.batch, path=path, name=name,
        progress=progress and processes.is_writer(), interrupted=interrupted)


def collect(cfg: EvalConfig, generate: runner.Generate, judge: Judge,
            prompts: Sequence[Prompt], folder: str | os.PathLike, *,
            title: str = "evaluate", ruled: bool = True
            ) -> list[dict[str, Any]] | None:
  """The samples of `evaluate`, each batch stored as it is done.

  What `folder` has already is read, so that a run that was killed goes on where
  it was. The samples are the same either way, and those of `evaluate`.

  Args:
    cfg: how much.
    generate: prompts -> their samples, as `generating` gives it.
    judge: phrases and judges.
    prompts: the problems.
    folder: gets the folder `samples`, and what it cost.
    title: of the progress bar.
    ruled: see `runner.of_problems`.

  Returns:
    A row for every problem, as `runner.of_problems` makes them, with "tail",
    the beginning of its answers that the template gave; None after a signal.

  Raises:
    ValueError: no prompts, or the folder has other questions.
  """
  runner.check(prompts, cfg.batch)

  def work(live: Sequence[tuple[int, Prompt]]) -> list[dict[str, Any]]:
    # The shapes never change: the last batch is filled with repeats.
    numbers = processes.part(range(cfg.batch), "problems of a batch")
    asked = [live[min(number, len(live) - 1)][1] for number in numbers]
    rollout, texts = generate(asked)
    ours = [prompt for _, prompt in live[numbers.start:numbers.stop]]
    judged = ours or asked[:1]  # as `runner.evaluate`
    scored = judge.submit(
        runner.first(rollout, len(judged)), judged, texts[:len(judged)])()
    if not ours:
      return []
    rows = runner.of_problems(
        scored, ours, live[0][0] + numbers.start, ruled=ruled)
    return [row | {"tail": judge.tail(prompt)}
            for row, prompt in zip(rows, ours, strict=True)]

  folder = epath.Path(folder) / SAMPLES
  items = list(enumerate(prompts))
  if not batches.store(folder, items, cfg.batch, work, title=title,
                       unit="problems"):
    return None
  rows = list(batches.read(folder, len(prompts), cfg.batch))
  for row, prompt in zip(rows, prompts, strict=True):
    check(row["id"] == prompt.id and row["question"] == prompt.question,
          f"{folder} has the question {row['question'][:60]!r} where the data"
          f" has {prompt.question[:60]!r}; the data has changed since: choose"
          " another folder")
  return runner.once(rows, prompts)


def write(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> None:
  """The generations of all processes, which each of them has, as one file."""
  def one():
    runner.store(path, rows)
    rollouts.remove_beyond(path, 1)

  processes.from_writer(one)


def generating(cfg: EvalConfig, engine: Engine, judge: Judge, params: Any,
               bias_LE: jax.Array, step: int = 0) -> runner.Generate:
  """Prompts -> their samples; see `evaluate` for the arguments."""
  key = keys.fold(jax.random.key(cfg.seed), _STREAM, step)

  def generate(batch):
    rollout = engine.generate(
        params, bias_LE, [judge.tokens(p) for p in batch],
        [p.id for p in batch], cfg.samples, key)
    cost.sampled(engine.model.cfg, rollout)
    return rollout, judge.texts(rollout)

  return generate


def sampler(cfg: EvalConfig, model: Model, tokenizer: Tokenizer,
            mesh: jax.sharding.Mesh | None = None) -> Engine:
  """The engine that samples as `cfg` says."""
  return Engine(model, SamplingConfig(
      temperature=cfg.temperature, top_p=cfg.top_p,
      max_new_tokens=cfg.max_new_tokens, vocab=tokenizer.vocab_size),
      tokenizer.eos_ids, mesh)


def once(cfg: EvalConfig, engine: Engine, judge: Judge, policy: Weights,
         prompts: Sequence[Prompt], folder: str | os.PathLike, name: str
         ) -> EvalResult:
  """`evaluate`, stored in `folder`; what is there already is read.

  Args:
    cfg, engine, judge, prompts: see `evaluate`.
    policy: the model.
    folder: gets NAME.json, the result, and NAME.jsonl.gz, the generations.
    name: of the model.
  """
  path = epath.Path(folder) / f"{name}.json"
  saved = processes.from_writer(
      lambda: io.read_json(path) if path.exists() else None)
  if saved:
    result = config_lib.from_dict(EvalResult, saved)
    return dataclasses.replace(result, pass_k={
        int(k): share for k, share in result.pass_k.items()})  # JSON's are text
  result = evaluate(
      cfg, engine, judge, laid_out(policy, engine), policy.router_bias_LE,
      prompts, path=epath.Path(folder) / f"{name}.jsonl.gz",
      name=f"evaluate {name}")
  processes.from_writer(
      lambda: io.write_json(path, dataclasses.asdict(result)))
  return result


def laid_out(policy: Weights, engine: Engine, *, donate: bool = False) -> Any:
  """The policy's parameters ready to decode, as the engine's mesh splits them.

  Args:
    policy: the model.
    engine: that shall sample from it.
    donate: the policy's own arrays are given up, so that there is one copy.
  """
  way = reshard.Decoding(policy.model, engine.mesh, policy.params)
  return way.there(policy.params, donate=donate)


def during(cfg: EvalConfig, engine: Engine, judge: Judge,
           prompts: Sequence[Prompt], workdir: str | os.PathLike
           ) -> Callable[..., dict[str, float] | None]:
  """What a training loop calls now and then, as `grpo.run` takes it.

  Args:
    cfg, engine, judge, prompts: see `evaluate`.
    workdir: of the run, where the generations are stored.

  Returns:
    (params, router_bias_LE, step, interrupted) -> the numbers for the log, or
    None if it was interrupted; `interrupted` may be left out.
  """
  def run(params, bias_LE, step, interrupted=lambda: False):
    result = evaluate(
        cfg, engine, judge, params, bias_LE, prompts, step=step,
        path=rollouts.path(workdir, step, rollouts.EVALUATIONS),
        progress=False, interrupted=interrupted)
    return None if result is None else metrics(result)

  return run


def metrics(result: EvalResult) -> dict[str, float]:
  """The numbers of an evaluation under the names of the log."""
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
