"""Masks for the user's own pictures.

`pairing` finds which files belong together (`pairing_by_time`: of sensors at their own rates), `reading` makes of a
picture what the model takes, `tiled_model` asks the model, `outputs` writes what it answers, and `folder` does all of
it for many pictures and goes on where it stopped.
"""
