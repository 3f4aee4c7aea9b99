"""Cross-entropy, token by token, in float64."""


def cross_entropy(logprobs, mask, weights):
  """(sum, weight) of nested lists [B][T]."""
  total, weight = 0.0, 0.0
  for b in range(len(mask)):
    for t in range(len(mask[b])):
      if mask[b][t]:
        total += -float(logprobs[b][t]) * float(weights[b][t])
        weight += float(weights[b][t])
  return total, weight
