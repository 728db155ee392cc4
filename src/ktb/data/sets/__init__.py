"""One module per data set; `folder` is the user's own data, its settings and the pairing of its files are beside it."""
