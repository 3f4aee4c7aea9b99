"""Trains a tokenizer on the pre-training pages.

Those in the package were made by

  python -m experiments.train_tokenizer --out=r1jax/assets/arith/tokenizer.model
  python -m experiments.train_tokenizer --pages=world --vocab_size=768 \\
      --documents=20000 --out=r1jax/assets/world/tokenizer.model
"""

from __future__ import annotations

from absl import flags
from etils import epath

from r1jax.core.config import check
from r1jax.data.sources import corpus
from r1jax.data.sources.world import pages
from r1jax.data.text import tokenizer

from . import start

_OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
_PAGES = flags.DEFINE_enum(
    "pages", "arith", ["arith", "world"], "Training text: pages about sums, or"
    " pages of the small world.")
_VOCAB_SIZE = flags.DEFINE_integer(
    "vocab_size", 512, "Number of pieces, of which 264 are special or bytes.")
_DOCUMENTS = flags.DEFINE_integer(
    "documents", 50000, "Number of pages to train on.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the pages.", lower_bound=0)


def main() -> None:
  check(not epath.Path(_OUT.value).exists(),
        f"{_OUT.value} exists; remove it or choose another --out")
  document = {"arith": corpus.document, "world": pages.document}[_PAGES.value]
  texts = (document(_SEED.value, index) for index in range(_DOCUMENTS.value))
  tokenizer.train(texts, _VOCAB_SIZE.value, _OUT.value)
  trained = tokenizer.SentencePieceTokenizer(_OUT.value)
  print(f"{_OUT.value}: {trained.vocab_size} pieces")


if __name__ == "__main__":
  start.run(main)
