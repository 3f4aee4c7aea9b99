"""What every stage does around its loop."""
