"""Jobs: one training or one evaluation, from a configuration to a run folder.

In reading order: `train` and `evaluate` (each job from start to end), `build` (data, loss and model out of the
configuration), `optimisation` and `callbacks` (the same of how it is trained), `trainer` and `loggers`, `resume` and
`resume_settings` (going on from a checkpoint), `finetune` (starting from other weights), `saved_model` (the model and
data of a checkpoint), `predictor` (such a model in a program of the user's own), `folder` (claiming the run folder),
`results` and `facts` (what is written into it), `printed` (what a person sees).
"""
