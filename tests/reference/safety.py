"""Rates of labels, row by row, in float64."""


def rate(rows, label, category, *, weighted=True):
  """The mean over subcategories of the mean over questions of their samples.

  Rows are (category, subcategory, question, label); "" is no verdict. With
  `weighted` off, every question counts alike.
  """
  tree = {}
  for cat, sub, question, said in rows:
    if said and category in (None, cat):
      tree.setdefault((cat, sub) if weighted else 0, {}).setdefault(
          question, []).append(1.0 if said == label else 0.0)
  total = 0.0
  for questions in tree.values():
    inner = 0.0
    for values in questions.values():
      inner += sum(values) / len(values)
    total += inner / len(questions)
  return total / len(tree)
