"""Training and evaluation: losses, optimiser, LightningModule, metrics, callbacks."""
