"""R1-Zero on a laptop: the work of the quickstart and its notebook.

The embedded base is evaluated, trained by GRPO with accuracy and format rewards
only, and evaluated again. Each evaluation uses three decoding methods, because
sampling at temperature 1 alone would understate what the base can do.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
from etils import epath

from r1jax.data.text.tokenizer import Tokenizer
from r1jax.evals.runner import EvalResult
from r1jax.losses import presets as loss_presets
from r1jax.stages import evaluating, grpo, judging, tasks
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.weights import Handover, Weights
from r1jax.training.optimizer import OptimizerConfig

# As in training: temperature 1, no nucleus.
EVAL = EvalConfig(temperature=1.0, top_p=1.0)
# Decoding method -> (evaluation, suffix of its file's name).
DECODINGS = {
    "T = 1": (EVAL, ""),
    "T = 0.6, top-p 0.95": (EvalConfig(temperature=0.6, top_p=0.95), "_t06"),
    # One sample, because all would be equal.
    "greedy": (EvalConfig(
        temperature=0.0, top_p=1.0, samples=1), "_greedy"),
}


def config(seed: int, steps: int) -> GrpoConfig:
  """R1-Zero's objective with settings for the embedded base."""
  return GrpoConfig(
      steps=steps, seed=seed, eval_every=10,
      policy=loss_presets.get("r1-zero").policy,
      optimizer=OptimizerConfig(lr=2e-4, warmup_steps=5))


def run(cfg: GrpoConfig, decodings: Mapping[str, tuple[EvalConfig, str]],
        base: Weights, tokenizer: Tokenizer, folder: epath.Path, *,
        mesh: jax.sharding.Mesh | None = None, test: str = "test",
        held_out: str = "validation[:64]") -> dict[str, dict[str, EvalResult]]:
  """Evaluates the base, trains it, and evaluates the trained model.

  Args:
    cfg: settings of the training.
    decodings: see `DECODINGS`; the first one is also used for evaluations
      during training.
    base: the model to start from; its arrays are moved.
    tokenizer: the base's tokenizer.
    folder: gets the evaluations, and the run in train/.
    mesh: to train and sample on; None for one device.
    test: split to evaluate before and after training.
    held_out: split to evaluate during training.

  Returns:
    The evaluations of "base" and "R1-Zero" by decoding method; without the
    latter if training was interrupted.
  """
  test, held_out, train = (
      tasks.joined(tasks.load("arith", split))
      for split in (test, held_out, "train"))
  engines = {way: evaluating.sampler(evals, base.model, tokenizer, mesh)
             for way, (evals, _) in decodings.items()}
  first = next(iter(decodings))
  with judging.judge(tokenizer, cfg.template) as judge:

    def evaluated(policy, name):
      return {way: evaluating.once(
          evals, engines[way], judge, policy, test, folder, name + suffix)
              for way, (evals, suffix) in decodings.items()}

    results = {"base": evaluated(base, "base")}
    train = tasks.fitting(
        train, judge, cfg.prompt_limit(base.model.cfg.max_position),
        "training")
    zero = grpo.run(
        cfg, Handover(base), judge, train, folder / "train",
        evaluate=evaluating.during(
            decodings[first][0], engines[first], judge, held_out,
            folder / "train"), mesh=mesh)
    if grpo.finished(folder / "train", cfg):
      results["R1-Zero"] = evaluated(zero, "zero")
  return results
