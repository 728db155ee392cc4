"""Data sets: descriptions, readers, augmentation and one DataModule each. Knows nothing of models or engine."""
