"""`ktb-data align`, and what `ktb-data check` says of sensors that do not line up.

`edges` compares two pictures of different sensors, `offset` finds how far one is shifted and scaled against the other,
`homography` estimates one matrix for a whole folder. `camera`, `kinect` and `calibration` read calibration files,
`warp` moves pictures, `files` reads and writes them, `folder` does so for a whole data folder.
"""
