"""Data sets: descriptions, readers, augmentation and one DataModule each. Knows nothing of models or engine.

In reading order: `spec` says what the engine gets, `module` is what all data sets share; `samples`, `tree`, `lists`,
`globs` and `files` find and read what lies on disk with `readers`; `resizing`, `augment`, `dataset` and `sampler` make
batches of it. `sets` has a module per data set, `scenes` draws the synthetic one, `tools` is what `ktb-data` does.
`values` and `label_size` are what a checkpoint remembers of the data; `balance` (class weights), `pictures` (for the eye)
and `timestamps` (pairing by time) are used by one room each, `arrays` and `cores` everywhere.
"""
