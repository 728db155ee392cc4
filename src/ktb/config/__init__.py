"""The configuration of a command, from what the user typed to checked values.

In reading order: `schema` (types of the fixed part), `conf_folder` (where conf/ lies), `compose` (composing),
`overrides` (what the user typed), `mistakes` (what cannot be composed, in words), `checks` (values that cannot work),
`modality` (which are used, and their name), `checked` (composing and checking in one), `own` (a class of the user's own
in a group), `trust` (whose classes a file may name), `build` (the object that a node names), `saved` and `references`
(a saved run's configuration with overrides put over it), `zoo` (models by name), `moved` (old names of settings and
classes), `keys` (settings by dotted names).
"""
