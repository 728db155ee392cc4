"""Training and scoring.

In reading order: scoring (scores a model on a split), module (trains it too), optim and schedules (by which steps),
seeds and draws (what random numbers follow from), inference (how pictures pass through the model), answers, epochs,
checkpoint_content and checkpoint_files, disturbances and robustness (failing sensors), callbacks.
"""
