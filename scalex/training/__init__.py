"""Training: the fit of a model to cells, and its continuation."""
