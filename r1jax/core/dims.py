"""The legend of shape letters, for the whole project.

An array's name ends in `_` and one letter per axis: `x_BTD` is
[batch, length, width]. A singleton axis is written `1`. Einsum letters are the
suffix letters.

Text and batches
  B  rows of a batch                T  length of a row (query positions)
  S  key positions, cache slots     X  tokens of all rows, flattened (B*T)
  V  vocabulary                     P  prompt length
  Q  questions (prompts) of a step  G  samples per question (group size)

Transformer
  L  layers                         D  model width (hidden size)
  N  query heads                    K  key/value heads (dense models)
  H  head width (dense models)      F  feed-forward width

Multi-head latent attention
  Z  query rank                     C  key/value rank (the latent)
  U  unrotated (nope) head width    R  rotated (rope) head width
  W  value head width

Mixture of experts
  E  routed experts                 M  groups of experts
  A  activated experts per token    J  width of one expert
"""
