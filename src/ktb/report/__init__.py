"""Run folders → tables, plots, one self-contained HTML page, a wandb dashboard. Reads files only; needs no PyTorch."""
