"""Scores: counts (of pixels), scores (what follows from counts), evaluation (one pass over a split), own
(metrics of the user's own)."""
