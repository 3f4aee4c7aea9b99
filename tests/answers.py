"""Answers of models that are plain functions, for `evals.runner`."""

from r1jax.evals import runner


def of(generate, score):
  """Rows of what `generate(prompts)` samples and `score(...)` judges."""
  def work(batches):
    for items in batches:
      prompts = [prompt for _, prompt in items]
      rollout, texts = generate(prompts)
      yield runner.of_problems(score(rollout, prompts, texts), items)

  return work
