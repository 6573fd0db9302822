"""Draw docs/demo.png: the demo cells before and after integration. Run it in the repository: python docs/picture.py RUN_FOLDER."""

import sys
from pathlib import Path

import anndata as ad
import scanpy as sc

from scalex.pl.colors import choose_styles
from scalex.pl.panels import add_legend, draw_groups, make_panels, set_limits


def main(run: Path) -> None:
    """Draw the cells of a run of the demo, coloured by domain and by type."""
    after = ad.read_h5ad(run / "adata.h5ad")
    before = after.raw.to_adata()
    before.obs = after.obs
    sc.pp.pca(before, n_comps=30)
    sc.pp.neighbors(before, n_neighbors=30, use_rep="X_pca")
    sc.tl.umap(before, min_dist=0.1)
    shown = [(when, adata, color) for when, adata in (("before", before), ("after", after)) for color in ("domain", "cell_type")]
    axes = make_panels([list(adata.obs[color].cat.categories) for _, adata, color in shown], n_columns=4)
    for axis, (when, adata, color) in zip(axes, shown, strict=True):
        styles = choose_styles(adata.obs[color].cat.categories)
        draw_groups(axis, adata.obsm["X_umap"], adata.obs[color].array, styles)
        add_legend(axis, styles)
        set_limits(axis, adata.obsm["X_umap"])
        axis.set_title(f"{when}: {color.replace('_', ' ')}")
    axes[0].figure.savefig(Path(__file__).with_name("demo.png"), dpi=70)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
