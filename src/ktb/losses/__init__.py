"""Losses of a model's output: base (what all are), pixel (the fused head alone), self_teaching; what they are made of,
functions of logits and labels: cross_entropy, smoothing, regions; masking is what a training step hides."""
