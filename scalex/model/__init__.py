"""The model as Lightning trains it, its corrections, inference and checkpoint."""
