"""`ktb-data check`: a whole data set looked at before it is trained on, every sample as training reads it.

`opened` opens the splits, `look` reads one sample (many at once with `ktb.data.tools.parallel`), `alignment` compares
the modalities of some samples, `findings` and `summary` put what was seen into one plain dictionary, `report` prints it
and writes it as JSON and HTML, `overlays` draws modalities over each other.
"""
