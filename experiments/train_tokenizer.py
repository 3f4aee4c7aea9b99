"""Trains the embedded tokenizer on the pre-training mixture.

python -m experiments.train_tokenizer --out=r1jax/assets/arith/tokenizer.model
"""

from __future__ import annotations

from absl import flags

from experiments import start
from r1jax.data import corpus, tokenizer

_OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)
_VOCAB_SIZE = flags.DEFINE_integer(
    "vocab_size", 512, "Number of pieces, 264 of them special or bytes.")
_DOCUMENTS = flags.DEFINE_integer(
    "documents", 50000, "Pages of the mixture to learn from.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the mixture.", lower_bound=0)


def main() -> None:
  texts = (
      corpus.document(_SEED.value, index) for index in range(_DOCUMENTS.value))
  tokenizer.train(texts, _VOCAB_SIZE.value, _OUT.value)
  trained = tokenizer.SentencePieceTokenizer(_OUT.value)
  print(f"{_OUT.value}: {trained.vocab_size} pieces")


if __name__ == "__main__":
  start.run(main)
