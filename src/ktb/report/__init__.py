"""Run folders → tables, plots, one self-contained HTML page, a wandb dashboard. Reads files only; needs no PyTorch.

`runs` and `sweep_summary` read run and sweep folders, `table_formats` writes a table as text, Markdown, LaTeX or CSV.
`page` renders the templates of the HTML page with what `overview`, `run_sections`, `fusion_points`, `notices` and
`plots` give. `result_tables` prints the scores at the end of a job, `dashboard` builds the wandb workspace.
"""
