"""How well each domain is mixed, what is left of its structure, and which types lie among others."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalex.metrics import mixed_types, scores_by_domain
from scalex.metrics.scores import N_COMPONENTS, choose_some
from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names

__all__ = ["draw_scores", "scores"]

# Rows of a panel. More could not be read.
MAX_ROWS = 25
# Share of wrong neighbours from which the type that most of them are of is named.
MIN_NAMED = 0.1


def scores(adata: AnnData, label: str = "cell_type") -> list[Axes]:
    """Draw how well each domain is mixed, what is left of its structure, and which types lie among others.

    Parameters
    ----------
    adata
        A result: obsm["latent"], obsm["input_pca"] and obs["domain"] with two domains or more. Of more cells than
        `scalex.metrics.scores` uses, the same sample is taken.
    label
        Column of obs with cell types. It may be absent.

    Returns
    -------
    list of matplotlib.axes.Axes
        The panels: mixing, kept structure and, if types are known, types.

    Raises
    ------
    KeyError
        If the latents, the principal components or the domains are missing.
    ValueError
        With fewer than two domains.
    """
    for name in ("latent", "input_pca"):
        if name not in adata.obsm:
            raise KeyError(f'obsm["{name}"] is not there. A result of a training has it.')
    some = choose_some(adata.n_obs)
    latent = np.asarray(adata.obsm["latent"])[some]
    domain = pd.Categorical(adata.obs["domain"])[some]
    by_domain = scores_by_domain(latent, domain, np.asarray(adata.obsm["input_pca"])[some, :N_COMPONENTS])
    by_type = None
    if label in adata.obs:
        types = pd.Categorical(adata.obs[label])[some]
        known = ~types.isna()
        by_type = mixed_types(latent[known], types[known].remove_unused_categories())
    return draw_scores(by_domain, by_type).axes


@draw_text_as_it_is()
def draw_scores(by_domain: pd.DataFrame, by_type: pd.DataFrame | None) -> Figure:
    """Draw how well each domain is mixed, what is left of its structure, and which types lie among others.

    Parameters
    ----------
    by_domain
        The result of `scalex.metrics.scores_by_domain`.
    by_type
        The result of `scalex.metrics.mixed_types`. None: types are not known, and their panel is omitted.
    """
    n_rows = min(max(len(by_domain), 0 if by_type is None else len(by_type)), MAX_ROWS)
    n_panels = 2 if by_type is None else 3
    figure, axes = plt.subplots(1, n_panels, figsize=(5.2 * n_panels, 1.8 + 0.26 * n_rows), layout="constrained")
    # The least mixed domains are at the top.
    domains = by_domain.sort_values("latents").head(MAX_ROWS).iloc[::-1]
    _draw_mixing(axes[0], domains)
    _draw_kept(axes[1], domains)
    if by_type is not None:
        _draw_types(axes[2], by_type.head(MAX_ROWS).iloc[::-1])
    if len(by_domain) > MAX_ROWS:
        figure.supxlabel(f"{MAX_ROWS} least mixed of {len(by_domain):,} domains", fontsize=8)
    return figure


def _draw_mixing(axis: Axes, domains: pd.DataFrame) -> None:
    row = np.arange(len(domains))
    axis.hlines(row, domains["inputs"], domains["latents"], color="lightgrey", linewidth=2, zorder=1)
    axis.scatter(domains["inputs"], row, facecolors="white", edgecolors="tab:grey", zorder=2, label="in the inputs")
    axis.scatter(domains["latents"], row, color="tab:blue", zorder=3, label="in the latents")
    best = float(domains["permuted"].iloc[0])
    axis.axvline(best, color="black", linestyle=":", label="with permuted domains")
    axis.set(title="Are the domains mixed?", xlabel="entropy of the domains among neighbours", xlim=(-0.03, 1.03))
    _name_rows(axis, _describe(domains))
    axis.figure.legend(*axis.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower left", ncols=3)


def _draw_kept(axis: Axes, domains: pd.DataFrame) -> None:
    kept = domains["kept"]
    axis.barh(np.arange(len(domains)), kept.fillna(0), color="tab:blue", height=0.6)
    axis.axvline(0, color="black", linestyle=":")
    axis.set(title="Is their structure kept?", xlabel="former neighbours of the domain still near (0 is chance)")
    axis.set_xlim(min(-0.03, float(kept.min()) - 0.03) if kept.notna().any() else -0.03, 1.03)
    _name_rows(axis, _describe(domains))


def _draw_types(axis: Axes, types: pd.DataFrame) -> None:
    row = np.arange(len(types))
    axis.barh(row, types["wrong"], color="tab:red", height=0.6)
    axis.axvline(1, color="black", linestyle=":")
    axis.set(title="Do types stay apart?", xlabel="neighbours of other types (0 is best, 1 is chance)")
    axis.set_xlim(min(-0.03, float(types["wrong"].min()) - 0.03), max(1.03, float(types["wrong"].max()) + 0.03))
    _name_rows(axis, shorten_names(types.index))
    for place, (wrong, among) in enumerate(zip(types["wrong"], types["among"], strict=True)):
        if wrong >= MIN_NAMED:
            inside = wrong > 0.5
            axis.text(
                wrong + (-0.02 if inside else 0.02), place, f"among {shorten_name(among)}", fontsize=7, va="center",
                ha="right" if inside else "left", color="white" if inside else "black",
            )  # fmt: skip


def _describe(domains: pd.DataFrame) -> list[str]:
    return [f"{name} ({n:,})" for name, n in zip(shorten_names(domains.index), domains["cells"], strict=True)]


def _name_rows(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(np.arange(len(names)), names, fontsize=8)
    axis.set_ylim(-0.7, len(names) - 0.3)
