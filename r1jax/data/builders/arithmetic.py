"""tfds data set of the embedded arithmetic task."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from r1jax.data import arithmetic

SIZES = {"train": 20000, "validation": 256, "test": 256, "hard": 256}


class Arithmetic(tfds.core.GeneratorBasedBuilder):
  """Chains of additions and subtractions; `hard` is out of distribution."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Levels 3-6; hard has levels 7-8."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="Arithmetic in numbers and in stories, made by a rule.",
        features=tfds.features.FeaturesDict({
            "id": tfds.features.Scalar(dtype=np.int64),
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "level": tfds.features.Scalar(dtype=np.int64),
            "kind": tfds.features.Text(),
        }))

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(split) for split in SIZES}

  def _generate_examples(self, split: str):
    # Ids of different splits lie a million apart.
    first = 1_000_000 * list(SIZES).index(split)
    for index, problem in enumerate(arithmetic.examples(split, SIZES[split])):
      yield first + index, {
          "id": first + index,
          "question": problem.question,
          "answer": str(problem.answer),
          "level": problem.level,
          "kind": problem.kind,
      }
