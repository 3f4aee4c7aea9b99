"""The small world: synthetic bilingual data to try R1's stages in miniature."""
