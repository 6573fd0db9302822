"""What users ask of genes after the embedding: markers, sums of samples, differences between conditions. Functions on AnnData."""

from scalex.genes.differential import Differences, compare_conditions
from scalex.genes.markers import find_markers
from scalex.genes.pseudobulk import make_pseudobulk

__all__ = ["Differences", "compare_conditions", "find_markers", "make_pseudobulk"]
