"""What lies in the folder of a run: `names` of its files, `files` to read and write them, `result` for result.json."""
