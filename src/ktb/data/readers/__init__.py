"""Files → arrays: `decode` (any file as stored), `image` and `label` (as a data set means them), and their parts."""
