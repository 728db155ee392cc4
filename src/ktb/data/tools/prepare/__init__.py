"""`ktb-data prepare`: from what is downloaded to what the loaders expect.

`download` looks at what was downloaded and gives one job per sample; `conversion` does one job (many at once with
`ktb.data.tools.parallel`), and writes the split lists last, so that a folder with lists is a complete one. Files that
are there are kept by a later call, so a stopped call goes on where it stopped. `nyu`, `sunrgbd` and `mfnet` know one
download each.
"""
