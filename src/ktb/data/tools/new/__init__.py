"""`ktb-data new`: a configuration for the user's own data from a look at the folder.

In reading order: `survey` is the whole; `words`, `kinds`, `stats`, `roles`, `modality`, `labels` and `splits` are its
steps, `found` what they fill in; `output` writes the configuration, with the training settings of `recipe`.
"""
