"""Plots of results for notebooks. Each returns matplotlib axes."""

from scalex.pl.composition import composition
from scalex.pl.domains import scores
from scalex.pl.maps import projection, umap
from scalex.pl.markers import markers

__all__ = ["composition", "markers", "projection", "scores", "umap"]
