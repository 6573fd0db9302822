"""Scores of an embedding: pure functions, and metrics of torchmetrics for training."""

from scalex.metrics.entropy_mixing import BatchEntropyMixing, batch_entropy_mixing, neighbor_entropy
from scalex.metrics.scores import SCORES, scores
from scalex.metrics.silhouette import Silhouette, silhouette

__all__ = ["SCORES", "BatchEntropyMixing", "Silhouette", "batch_entropy_mixing", "neighbor_entropy", "scores", "silhouette"]
