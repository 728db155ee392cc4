"""What `ktb-data` does: `check`, `preview`, `prepare`, `hha`, `new`, and `fixtures` for tests and trying things out."""
