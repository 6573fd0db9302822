"""New cells in the space of a trained model."""
