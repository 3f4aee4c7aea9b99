"""Where questions and rows come from, and which of them are kept."""
