"""Lightning callbacks, which act during training and on its result."""

from scalex.callbacks.checkpoint import Checkpoint
from scalex.callbacks.early_stopping import EarlyStopping
from scalex.callbacks.latent_export import LatentExport
from scalex.callbacks.markers import Markers
from scalex.callbacks.progress import Progress
from scalex.callbacks.pseudobulk import Pseudobulk
from scalex.callbacks.report_page import ReportPage
from scalex.callbacks.scores import Scores
from scalex.callbacks.umap_plot import UmapPlot

__all__ = ["Checkpoint", "EarlyStopping", "LatentExport", "Markers", "Progress", "Pseudobulk", "ReportPage", "Scores", "UmapPlot"]
