"""Draw docs/demo.png: the demo cells before and after integration. Run it in the repository: python docs/picture.py RUN_FOLDER."""

import sys
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc


def main(run: Path) -> None:
    """Draw the cells of a run of the demo, coloured by domain and by type."""
    after = ad.read_h5ad(run / "adata.h5ad")
    before = after.raw.to_adata()
    before.obs = after.obs
    sc.pp.pca(before, n_comps=30)
    sc.pp.neighbors(before, n_neighbors=30, use_rep="X_pca")
    sc.tl.umap(before, min_dist=0.1)
    order = np.random.default_rng(0).permutation(after.n_obs)
    figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
    for pair, (adata, when) in zip((axes[:2], axes[2:]), ((before, "before"), (after, "after")), strict=True):
        for axis, color in zip(pair, ("domain", "cell_type"), strict=True):
            sc.pl.umap(adata[order].copy(), color=color, ax=axis, show=False, frameon=False, title=f"{when}: {color}")
    figure.savefig(Path(__file__).with_name("demo.png"), dpi=70)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
