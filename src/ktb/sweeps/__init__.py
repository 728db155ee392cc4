"""Sweeps on disk, without Hydra: `folder` (the sweep), `job` (one job and its record), `processes` (starting and ending
what runs it), `signals` (what stops it). The launchers are in `hydra_plugins`.
"""
