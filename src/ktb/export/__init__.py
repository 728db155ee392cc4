"""Models as files that run without ktb.

`file` writes a model as ONNX or as a torch.export program. For a file that takes what sensors give, `sensors` says what
that is, `steps` carries the preparation out in the graph, with `resizing` and `fits` for its harder parts, and `raw`
puts it before the model. `int8` makes a small file of one, `session` runs and looks at any.
"""
