"""The model. Needs torch and timm only: usable from a notebook without Lightning or Hydra.

In reading order: segmentor (the whole, docs/method.md#data-flow), backbones, peft, fusion, heads, and layers, which
holds what several of them need and the fast forms of attention; then profile, graph, finite.
"""
