"""Scores of an embedding: pure functions, and metrics of torchmetrics for training."""

from scalex.metrics.by_domain import scores_by_domain
from scalex.metrics.entropy_mixing import BatchEntropyMixing, SharedMixing, batch_entropy_mixing, neighbor_entropy, shared_mixing
from scalex.metrics.kept_clusters import kept_clusters
from scalex.metrics.kept_neighbors import kept_neighbors
from scalex.metrics.neighbors import find_nearest
from scalex.metrics.scores import SCORES, scores
from scalex.metrics.silhouette import Silhouette, silhouette
from scalex.metrics.wrong_neighbors import mixed_types, wrong_neighbors

__all__ = [
    "SCORES",
    "BatchEntropyMixing",
    "SharedMixing",
    "Silhouette",
    "batch_entropy_mixing",
    "find_nearest",
    "kept_clusters",
    "kept_neighbors",
    "mixed_types",
    "neighbor_entropy",
    "scores",
    "scores_by_domain",
    "shared_mixing",
    "silhouette",
    "wrong_neighbors",
]
