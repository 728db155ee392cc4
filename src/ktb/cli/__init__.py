"""The commands: arguments in, exit code out.

`train`, `data`, `predict`, `model` and `report` are the entry points and import next to nothing, so that a Ctrl-C ends
them in one line; `run` is the edge that all of them share, and `faults` knows what a machine can be at fault for.
`hydra_command`, `hydra_flags`, `train_help` and `train_sweep` belong to ktb-train and ktb-eval; `data_write` and
`data_look` hold the subcommands of ktb-data, `model_info`, `model_files` and `model_zoo` those of ktb-model (on a model
that `model_source` opens), `report_forms` the forms of ktb-report. `arguments` and `progress` serve
several.
"""
