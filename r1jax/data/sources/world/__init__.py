"""A small world in two languages: what R1's stages are about, in miniature."""
