"""Projection of new cells into the space of a trained model."""
