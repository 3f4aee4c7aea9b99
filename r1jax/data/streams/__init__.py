"""From questions, rows and samples to packed batches, resumable."""
