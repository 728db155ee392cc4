"""Data sets: descriptions, readers, augmentation and one DataModule each. Knows nothing of models or engine.

In reading order: `spec` says what the engine gets, `module` is what all data sets share; `samples`, `tree`, `lists`,
`globs` and `files` find and read what lies on disk with `readers`; `resizing`, `augment`, `dataset` and `sampler` make
batches of it. `sets` has a module per data set, `scenes` draws the synthetic one, `tools` is what `ktb-data` does.
`values`, `label_size` and `preparation` (in words: `steps`) are what a checkpoint remembers of the data; `balance`
makes class weights, `pictures` shows samples, `timestamps` pairs frames by time; `arrays` (types) and `cores` are used
everywhere.
"""
