"""Sequence-wise balance loss, eq. 17-20, float64."""


def sequence_loss(s, n_activated):
  """sum_i f_i P_i of one sequence of scores [T][E]."""
  t_len, n_experts = len(s), len(s[0])
  hits, share = [0.0] * n_experts, [0.0] * n_experts
  for row in s:
    best = sorted(range(n_experts), key=lambda i: (-row[i], i))[:n_activated]
    for i in best:
      hits[i] += 1
    for i in range(n_experts):
      share[i] += row[i] / sum(row)
  return sum(n_experts / (n_activated * t_len) * hits[i] * share[i] / t_len
             for i in range(n_experts))


def balance_loss(s_BTE, segments_BT, n_activated):
  """(sum over segments, number of segments); segment 0 is padding."""
  total, count = 0.0, 0
  for rows, segments in zip(s_BTE, segments_BT, strict=True):
    for segment in sorted(set(segments) - {0}):
      own = [list(r) for r, g in zip(rows, segments, strict=True)
             if g == segment]
      total += sequence_loss(own, n_activated)
      count += 1
  return total, count
