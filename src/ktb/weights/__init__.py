"""Files of weights: reading them safely, translating their names, making models of them and writing them.

In reading order: states, files, naming, hub, backbone, card, bundle, checkpoint (models out of files), export.
"""
