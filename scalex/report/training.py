"""The report of a training."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex.genes.markers import MIN_CELLS, find_markers
from scalex.pages.page import Row, Section, make_table, read_warnings, write_page
from scalex.pl.composition import find_single_domain_clusters
from scalex.report.cells import choose_columns, make_maps
from scalex.report.charts import draw_composition, draw_curves
from scalex.report.parts import make_settings, make_versions

__all__ = ["write_training_report"]

logger = logging.getLogger(__name__)

# What each score tells, and its range.
MEANINGS: Mapping[str, tuple[str, str]] = {
    "total": ("0 to 1", "0.6 biology + 0.4 entropy_mixing"),
    "biology": ("0 to 1", "the mean of ari, nmi and silhouette, the last brought to 0 to 1; without known types kept and kept_clusters"),
    "entropy_mixing": (
        "0 to 1",
        "how evenly the domains are spread over each cell's 100 nearest; below 1 if types belong to one domain alone",
    ),
    "entropy_mixing_inputs": ("0 to 1", "the same without integration"),
    "entropy_mixing_permuted": ("0 to 1", "the same with the domains permuted among the cells: all that mixing can reach"),
    "mixed": ("0 to 1", "mixing in clusters that several domains have, as a share of what is attainable there"),
    "shared": ("0 to 1", "share of the cells in such clusters"),
    "kept": ("about 0 to 1", "what is left of each domain's own neighbourhoods, beyond chance: low after over-correction"),
    "kept_clusters": ("-1 to 1", "how compact the clusters that each domain had before the integration still are"),
    "silhouette": ("-1 to 1", "how compact types are, or clusters where no types are known"),
    "ari": ("to 1", "agreement of clusters and known types (adjusted Rand index)"),
    "nmi": ("to 1", "agreement of clusters and known types (normalized mutual information)"),
    "wrong": ("about 0 to 1", "cells of other types among each cell's 30 nearest: 0 is best, 1 is chance"),
    "umap_entropy_mixing": ("0 to 1", "mixing on the UMAP, to compare with the published package"),
    "umap_silhouette": ("-1 to 1", "silhouette on the UMAP, to compare with the published package"),
}
CURVES = ("loss", "reconstruction", "kl", "correction", "domain_entropy")
# Markers in the table for each cluster, genes that colour the map, and the cells in which markers are found.
GENES_PER_CLUSTER = 5
MAX_GENES = 30
N_CHOOSING = 5000
INFO = re.compile(r"^\S+ \S+ INFO (.*)$", re.MULTILINE)


def write_training_report(
    folder: Path, adata: AnnData, *, label_key: str, genes: Sequence[str] | None = None, parameters: Mapping[str, Any], seed: int = 0
) -> None:
    """Write ``report.html`` to a run folder.

    Parameters
    ----------
    folder
        The run folder, with ``log.txt`` and ``metrics.csv``, and ``growth.json`` after continued training.
    adata
        The result: obs with "domain", and obsm["X_umap"], obs["leiden"] and expression as far as they are there.
    label_key
        Column of obs with known cell types. It may be absent.
    genes
        Genes that the map can be coloured by. None: the best markers of the clusters. A warning names those that are missing.
    parameters
        Settings of the run.
    seed
        Seed of the samples.
    """
    log = folder / "log.txt"
    lines = INFO.findall(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
    first = next((n for n, line in enumerate(lines) if line.startswith("Model: ")), len(lines) - 1)
    read = "".join(f"<li>{html.escape(line)}</li>" for line in lines[: first + 1])
    scores: Mapping[str, float] = adata.uns.get("scalex", {}).get("scores", {})
    markers = _find_markers(adata, seed)
    if genes is None:
        genes = [] if markers is None else _choose_genes(markers)
    sections = [
        Section("Cells", _make_cells(adata, label_key, genes, seed)),
        Section("Scores", _make_scores(scores)),
        Section("Old cells", _make_growth(folder / "growth.json")),
        Section("Domains in the clusters", _make_composition(adata)),
        Section("Markers of the clusters", _make_markers(markers, adata.obs.get("leiden"))),
        Section("What was read and kept", f"<ul>{read}</ul>" if read else ""),
        Section("Training", _make_training(folder / "metrics.csv")),
        make_settings(parameters),
        make_versions(),
    ]
    domains = adata.obs["domain"].nunique()
    subtitle = f"{adata.n_obs:,} cells x {adata.n_vars:,} features, {domains:,} domain{'s' if domains != 1 else ''}"
    write_page(folder / "report.html", f"SCALEX: {folder.resolve().name}", subtitle, sections, read_warnings(log))


def _make_cells(adata: AnnData, label_key: str, genes: Sequence[str], seed: int) -> str:
    if "X_umap" not in adata.obsm:
        return ""
    columns = choose_columns(adata.obs, ("domain", label_key, "leiden"))
    shown = (0, 1 if len(columns) > 1 else 0)
    if adata.raw is not None:
        chosen = list(genes)
        missing = [gene for gene in chosen if gene not in adata.raw.var_names]
        if missing:
            names = ", ".join(map(str, adata.raw.var_names[:3]))
            logger.warning("callbacks.report.genes: the cells have no %s. Their genes have names such as %s.", ", ".join(missing), names)
            chosen = [gene for gene in chosen if gene not in missing]
        values = adata.raw[:, chosen].X if chosen else np.zeros((adata.n_obs, 0))
        dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        columns |= {f"expression of {gene}": pd.Series(dense[:, n], adata.obs_names) for n, gene in enumerate(chosen)}
    return make_maps(adata.obsm["X_umap"], columns, shown=shown, seed=seed)


def _choose_genes(markers: pd.DataFrame) -> list[str]:
    """Return the best marker of each cluster, then the second ones, each gene once."""
    rank = markers.groupby("group", observed=True).cumcount()
    return list(dict.fromkeys(markers["feature"].iloc[np.argsort(rank, kind="stable")]))[:MAX_GENES]


def _find_markers(adata: AnnData, seed: int) -> pd.DataFrame | None:
    """Return markers of the clusters, from a sample of the cells, or None if there are no two clusters or there is no expression."""
    if "leiden" not in adata.obs or adata.raw is None:
        return None
    rows = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:N_CHOOSING])
    sample = AnnData(obs=adata.obs[["leiden", "domain"]].iloc[rows].copy())
    if (sample.obs["leiden"].value_counts() >= MIN_CELLS).sum() < 2:
        return None
    sample.raw = AnnData(adata.raw.X[rows], obs=sample.obs[[]], var=adata.raw.var[[]])
    try:
        found = find_markers(sample, n_features=GENES_PER_CLUSTER)
    except ValueError as error:
        # Values that were trained on as they are may be no logarithms. The report is written without markers.
        logger.warning("The report has no markers: %s", error)
        return None
    return found[found["score"] > 0]


def _make_markers(markers: pd.DataFrame | None, cluster: pd.Series | None) -> str:
    """Return a table of the markers of each cluster. Those that are higher in all domains stand alone."""
    if markers is None or cluster is None:
        return ""
    size = cluster.value_counts()
    rows: list[Row] = []
    for one, own in markers.groupby("group", observed=True, sort=False):
        few = own["domains_higher"] < own["domains"]
        agreement = np.where(few, own["domains_higher"].map(", {} of ".format) + own["domains"].map("{} domains".format), "")
        names = [f"{feature} ({auroc:.2f}{text})" for feature, auroc, text in zip(own["feature"], own["auroc"], agreement, strict=True)]
        rows.append([str(one), int(size[one]), ", ".join(names)])
    note = (
        "In brackets is the probability that a cell of the cluster has more of the gene than another cell. Where the gene is not higher in "
        f"every domain, the number of domains follows. Markers are found in at most {N_CHOOSING:,} cells. "
        "<code>callbacks=[...,markers]</code> writes a longer table and a dot plot."
    )
    return f"<p>{note}</p>" + make_table(["cluster", "cells", "markers"], rows)


def _make_scores(scores: Mapping[str, float]) -> str:
    rows: list[Row] = [[name, float(scores[name]), *MEANINGS[name]] for name in MEANINGS if name in scores]
    if not rows:
        return ""
    note = "More is better, except for <code>wrong</code>. Scores are comparable between runs on the same cells only."
    return f"<p>{note}</p>" + make_table(["score", "value", "range", "what it tells"], rows)


def _make_growth(path: Path) -> str:
    """Return how far a continued training moved the old cells, and what became of their scores."""
    if not path.exists():
        return ""
    growth = json.loads(path.read_text())
    before, after = growth["scores_before"], growth["scores_after"]
    text = (
        f"<p>{growth['n_old']:,} cells are of the reference, {growth['n_new']:,} are new. Half of the old cells moved by less than "
        f"{growth['moved']['median']:.2f}, nine in ten by less than {growth['moved']['quantile_0.9']:.2f}. 1 is the {growth['unit']}.</p>"
    )
    verdict = "Their total score fell by more than growth.allowed_fall: this run does not replace the reference."
    if growth["accepted"]:
        verdict = "This run is the next version of the reference."
    known = [name for name in MEANINGS if name in before and name in after]
    rows: list[Row] = [[name, before[name], after[name], after[name] - before[name]] for name in known]
    text += f"<p>{verdict}</p>" + make_table(["score of the old cells", "before", "after", "difference"], rows)
    moved: list[Row] = list(growth["moved_by_type"].items())
    return text + (make_table(["type", "moved (median)"], moved) if moved else "")


def _make_composition(adata: AnnData) -> str:
    if "leiden" not in adata.obs:
        return ""
    bars = draw_composition(adata.obs["leiden"], adata.obs["domain"])
    alone = find_single_domain_clusters(adata.obs["leiden"], adata.obs["domain"])
    if alone.empty:
        return bars
    rows: list[Row] = [[str(cluster), str(row["domain"]), f"{row['share']:.1%}", int(row["cells"])] for cluster, row in alone.iterrows()]
    text = (
        "<p>Nearly all cells of these clusters are of one domain. Perhaps that is biology, a type that no other domain has; perhaps the "
        "domain is not mixed. Markers of the clusters tell: a type of its own has genes of its own.</p>"
    )
    return bars + text + make_table(["cluster", "domain", "share", "cells"], rows)


def _make_training(path: Path) -> str:
    if not path.exists():
        return ""
    table = pd.read_csv(path)
    columns = [name for name in CURVES if name in table and table[name].notna().any()]
    return draw_curves(table, columns) if columns and len(table) else ""
