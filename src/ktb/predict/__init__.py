"""Masks for the user's own pictures.

`pairing` finds which files belong together, `reading` makes of a picture what the model takes, `tiled_model` asks the
model, `outputs` writes what it answers, and `folder` does all of it for many pictures and goes on where it stopped.
"""
