"""Several processes of one job: `decisions` (before PyTorch's process group is up), `collectives` (sums afterwards)."""
