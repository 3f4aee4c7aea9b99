"""Multi-token prediction: which token each position predicts, by looking at
whole sequences; and its cross-entropy."""


def pairs(rows):
  """What is trained at (row, slot): {(b, t): token}.

  A row is a list of (tokens, prompt): the slot of tokens[i] reads tokens[i] and
  predicts tokens[i + 2], trained if that is beyond the prompt.
  """
  out = {}
  for b, row in enumerate(rows):
    start = 0
    for tokens, prompt in row:
      n = len(tokens) - 1  # slots of this sequence
      for i in range(n):
        if i + 2 < len(tokens) and i + 2 >= prompt:
          out[b, start + i] = tokens[i + 2]
      start += n
  return out


def loss(rows, logprobs):
  """(sum, weight), logprobs[b][t] being of what slot t predicts."""
  found = pairs(rows)
  return -sum(float(logprobs[b][t]) for b, t in found), len(found)
