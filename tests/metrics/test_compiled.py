from __future__ import annotations

import subprocess
import sys

KEPT = """
import numba
from scalex.metrics.compiled import import_umap
decorate = numba.njit
import_umap()
assert numba.njit is decorate
import numpy as np
import umap
from pynndescent import distances
found = umap.umap_.smooth_knn_dist(np.ones((3, 2), dtype=np.float32), 2.0)
assert umap.umap_.smooth_knn_dist.stats.cache_path
assert distances.proxy_symmetric_kl.stats.cache_path
"""


def test_what_numba_compiles_for_umap_is_kept() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", KEPT], check=True)
