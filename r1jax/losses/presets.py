"""Published variants of the policy objective.

Where a source gives no value, the comment says that the value is ours. Other
settings of a source (batch sizes, learning rates, sampling) are in the recipe
of the same name (experiments/recipes/).
"""

from __future__ import annotations

from typing import NamedTuple

from r1jax.losses.policy import PolicyConfig


class Preset(NamedTuple):
  """Options of the loss, and the divisor of its advantages: `std` or `none`."""

  policy: PolicyConfig
  normalize: str = "std"


PRESETS = {
    # DeepSeek-R1, Nature s41586-025-09422-z, eq. 1-3 and Methods: beta 0.001,
    # k3. R1-Zero's clip range and reduction over tokens are not given: PPO's
    # 0.2 and the mean are ours (for R1's first stage the paper gives 10).
    "r1-zero": Preset(PolicyConfig(kl_beta=0.001)),
    # arXiv:2402.03300, section 4.1.1 and 4.2: beta 0.04, mean over tokens. The
    # clip range is not given: ours is PPO's 0.2.
    "deepseekmath": Preset(PolicyConfig(kl_beta=0.04)),
    # Understanding R1-Zero-like training, arXiv:2503.20783: no division by the
    # length or the std, no KL; clip 0.2. The constant divisor is the generation
    # budget: that of the run (the authors' is 3000 tokens).
    "dr-grpo": Preset(PolicyConfig(aggregation="constant"), "none"),
    # arXiv:2503.14476, section 3: clip-higher (0.2, 0.28), mean over all
    # tokens, no KL. Dynamic sampling and the penalty for overlong answers are
    # not part of the loss; the recipe sets them.
    "dapo": Preset(PolicyConfig(aggregation="token_mean", clip_high=0.28)),
    # arXiv:2507.18071, section 5.1: sequence ratio, clip (3e-4, 4e-4). A KL
    # factor is not given: ours is 0.
    "gspo": Preset(
        PolicyConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4)),
    # MiniMax-M1, arXiv:2506.13585, section 3.1: no lower bound (a ratio is
    # never below 0), no KL, mean over all tokens. The upper bound was tuned but
    # is not given: ours is 1 + 4.
    "cispo": Preset(PolicyConfig(
        objective="cispo", aggregation="token_mean", clip_low=1.0,
        clip_high=4.0)),
}


def get(name: str) -> Preset:
  """The preset `name`.

  Raises:
    ValueError: unknown; the message lists the presets.
  """
  if name not in PRESETS:
    raise ValueError(
        f"loss preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
  return PRESETS[name]
