"""The model. Needs torch and timm only: usable from a notebook without Lightning or Hydra."""
