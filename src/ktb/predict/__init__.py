"""Masks for the user's own pictures.

`pairing` finds which files belong together, `predictor` asks the model, `outputs` writes what it answers, and `folder`
does all of it for many pictures and goes on where it stopped.
"""
