"""`ktb-data align`, and what `ktb-data check` says of sensors that do not line up.

`edges` compares two pictures of different sensors, `offset` finds how far one is shifted and scaled against the other.
"""
