"""Losses: pixel (cross-entropy, OHEM), regions, smoothing, self_teaching; masking is what a step hides."""
