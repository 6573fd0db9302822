"""The mapping report: how well new cells fit a reference."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scalex.metrics import neighbor_entropy
from scalex.pl.fit_of_query import draw_projection
from scalex.projection.query import Query
from scalex.reference.adapter import Adapter
from scalex.reference.finished_run import FinishedRun
from scalex.reference.latent_map import LatentMap
from scalex.report.projection import write_projection_report
from scalex.system.atomic_files import atomic_write
from scalex.system.figure_text import draw_text_as_it_is, shorten_name

__all__ = ["MIXING_APART", "Report", "Tally"]

logger = logging.getLogger(__name__)

# Cells that are drawn and whose mixing is computed.
N_SAMPLED = 10_000
# Mixing is not computed from fewer cells.
MIN_MIXED = 50
# Domains below this mixing with the reference lie apart, unless their median distance is below the other number. Training spreads the cells
# of a small reference farther than it does new ones, which then lie near them and yet among themselves (docs/model.md).
MIXING_APART = 0.3
DISTANCE_NEAR = 1.0
ADVICE = (
    "Hardly mixed with the reference: {}. It may know no technology like this. An adapter (adapt=true; in Python adapt=True, or "
    "Reference.fit_adapter) is fitted to such cells, and leaves the reference as it is."
)
UNIT = "median distance of the reference's own cells to their nearest others; outside: farther than 99 % of them"


@dataclass(frozen=True, eq=False)
class Report:
    """How well new cells fit a reference.

    Attributes
    ----------
    numbers
        Plain values; see `Tally.make_report`.
    sample
        Sampled new cells, with the columns "domain", "distance" and "outside" and, if known, "label", "umap1" and "umap2".
    umap
        (n_indexed, 2) UMAP coordinates of reference cells, or None.
    own_distance, limit
        (n_held_out,) distances of held-out reference cells, and the distance above which a cell is outside; see `LatentMap`.
    """

    numbers: dict[str, Any]
    sample: pd.DataFrame
    umap: NDArray[np.float32] | None
    own_distance: NDArray[np.float32]
    limit: float

    def lines(self) -> list[str]:
        """Return the summary as lines for a log."""
        features, cells = self.numbers["features"], self.numbers["cells"]
        share, weighted = f"{features['share_found']:.0%}", f"{features['share_found_weighted']:.0%}"
        lines = [
            f"Features: {features['n_found']:,} of {features['n_used']:,} found ({share}; weighted by their use in the encoder {weighted})",
        ]
        domains = self.numbers["domains"]
        if len(domains) == 1:
            lines.append(_format_line(f"All cells ({shorten_name(next(iter(domains)))})", cells))
        else:
            lines.append(_format_line("All cells", cells))
            lines += [_format_line(f"Domain {shorten_name(name)}", numbers) for name, numbers in domains.items()]
        adapted = {} if self.numbers["adapter"] is None else self.numbers["adapter"]["domains"]
        for name, fitted in adapted.items():
            mixing = fitted["mixing"]
            lines.append(
                f"Adapter of {shorten_name(name)}: fitted to {fitted['n_cells']:,} cells; mixing with the reference {mixing['after']:.2f}, "
                f"without it {mixing['before']:.2f}"
            )
        if apart := self.list_apart():
            lines.append(f"Hardly mixed with the reference (adapt=true fits an adapter): {', '.join(shorten_name(name) for name in apart)}")
        for label, counts in self.numbers["labels"].items():
            lines.append(f"{shorten_name(label)}: " + ", ".join(f"{shorten_name(name)} {count:,}" for name, count in counts.items()))
        return lines

    def list_apart(self) -> list[str]:
        """Return the domains that hardly mix with the reference, and that no adapter was fitted to."""
        if self.numbers["adapter"] is not None:
            return []
        return [name for name, numbers in self.numbers["domains"].items() if _lies_apart(numbers)]

    def figure(self) -> Figure:
        """Draw one page of plots."""
        return draw_projection(self.sample, self.umap, self.own_distance, self.limit, self.lines())

    @draw_text_as_it_is()
    def write(self, folder: Path) -> None:
        """Write ``report.json``, ``projection.pdf`` and ``projection.png``, and log the summary."""
        for line in self.lines():
            logger.info("%s", line)
        share = self.numbers["cells"]["share_outside"]
        if share > 0.2:
            logger.warning(
                "%.0f %% of the cells lie farther from the reference than its own cells do. It may lack their types or their technology.",
                100 * share,
            )
        apart = self.list_apart()
        if apart:
            logger.warning("%s", ADVICE.format(", ".join(shorten_name(name) for name in apart[:5])))
        with atomic_write(folder / "report.json") as path:
            path.write_text(json.dumps(self.numbers, indent=2))
        figure = self.figure()
        for ending in ("pdf", "png"):
            with atomic_write(folder / f"projection.{ending}") as path:
                figure.savefig(path, dpi=150)
        plt.close(figure)
        logger.info("Wrote %s and %s", folder / "report.json", folder / "projection.pdf")

    def write_page(self, folder: Path, results: Path) -> None:
        """Write ``report.html``. `results` is the file with the new cells."""
        write_projection_report(folder, results, self.numbers, umap=self.umap, own_distance=self.own_distance, limit=self.limit)
        logger.info("Wrote %s", folder / "report.html")


def _lies_apart(numbers: dict[str, Any]) -> bool:
    return numbers["mixing"] is not None and numbers["mixing"] < MIXING_APART and numbers["median_distance"] >= DISTANCE_NEAR


def _format_line(name: str, numbers: dict[str, Any]) -> str:
    mixing = "" if numbers["mixing"] is None else f", mixing with the reference {numbers['mixing']:.2f}"
    filtered = f", {numbers['n_filtered']:,} with few features" if numbers["n_filtered"] else ""
    return (
        f"{name}: {numbers['n_cells']:,} cells, median distance {numbers['median_distance']:.2f}, {numbers['share_outside']:.1%} outside"
        f"{mixing}{filtered}"
    )


def _count_labels(labels: pd.Categorical) -> dict[str, int]:
    return {str(name): int(count) for name, count in pd.Series(labels).value_counts().items() if count}


class Tally:
    """Tally of the numbers of the report, block by block. It keeps a few bytes of each cell, and the latents of a sample.

    Parameters
    ----------
    reference, data, latent_map
        The reference, the query that is projected into it, and the map of the reference's latents.
    label
        The label that is transferred, or None.
    adapter
        The adapter of the cells, or None.
    seed
        Seed of the sample.

    Attributes
    ----------
    best, unknown
        (n_cells,) int32 codes of the most probable types, and float32 column "unknown" of `LabelTransfer.compute_evidence`.
    """

    def __init__(
        self,
        reference: FinishedRun,
        data: Query,
        latent_map: LatentMap,
        label: str | None,
        adapter: Adapter | None = None,
        *,
        seed: int = 124,
    ) -> None:
        self._reference = reference
        self._data = data
        self._map = latent_map
        self._label = label
        self._adapter = adapter
        self._n_cells = 0
        self._distance = np.empty(data.n_cells, np.float32)
        self._filtered = np.empty(data.n_cells, bool)
        self._rng = np.random.default_rng(seed)
        n_sampled = min(N_SAMPLED, data.n_cells)
        self._rows = np.sort(self._rng.choice(data.n_cells, n_sampled, replace=False))
        self._latents: list[NDArray[np.float32]] = []
        self._sample: list[pd.DataFrame] = []
        self._labels: pd.Categorical | None = None
        self.best = np.zeros(data.n_cells if label else 0, np.int32)
        self.unknown = np.zeros(data.n_cells if label else 0, np.float32)

    def add(self, block: AnnData) -> None:
        """Add the next block of `QueryBlocks`."""
        obs, latent, umap = block.obs, block.obsm["latent"], block.obsm.get("X_umap")
        rows = slice(self._n_cells, self._n_cells + len(obs))
        self._n_cells = rows.stop
        self._distance[rows] = obs["distance"]
        self._filtered[rows] = obs["filtered"]
        first, stop = np.searchsorted(self._rows, [rows.start, rows.stop])
        sampled = self._rows[first:stop] - rows.start
        self._latents.append(latent[sampled])
        sample = obs[["domain", "distance", "outside"]].iloc[sampled].reset_index(drop=True)
        if umap is not None:
            sample[["umap1", "umap2"]] = umap[sampled]
        if self._label is not None:
            self.best[rows] = obs[f"{self._label}_best"].cat.codes
            self.unknown[rows] = obs[f"{self._label}_unknown"]
        self._sample.append(sample)

    def set_labels(self, labels: pd.Categorical) -> None:
        """Set the final labels of all cells, which are known only after the last block."""
        self._labels = labels

    def make_report(self) -> Report:
        """Return the report of all cells.

        `Report.numbers` holds

        - "reference", "query": what was projected into what;
        - "adapter": how the adapter was fitted, and how the cells lay before it; null without one;
        - "features": how many of the model's features the query has, also weighted by how much the encoder uses them, and the names of
          some missing ones;
        - "unit": the unit of distances;
        - "cells", "domains": "n_cells", "n_filtered", "median_distance", "share_outside" and "mixing" of all cells and of each domain;
        - "labels": the number of cells with each label.

        "mixing" is the mean `scalex.metrics.neighbor_entropy` of reference and query around the sampled cells that are not outside, in
        [0, 1]. It is null if there are fewer than 50 of them.
        """
        sample = pd.concat(self._sample, ignore_index=True)
        if self._labels is not None:
            sample["label"] = self._labels[self._rows]
        entropy = self._compute_entropy(np.concatenate(self._latents), sample["outside"].to_numpy(bool))
        domain = self._data.cells.domain.codes
        numbers = {
            "reference": {
                "folder": self._reference.given,
                "n_cells": self._reference.cells.n_obs,
                "n_training_cells": self._reference.trained_on.n_cells,
            },
            "query": {"n_cells": self._data.n_cells, "domains": list(self._data.domains)},
            "adapter": None if self._adapter is None else dict(self._adapter.description),
            "features": self._summarize_features(),
            "unit": UNIT,
            "cells": self._summarize(slice(None), entropy),
            "domains": {
                name: self._summarize(domain == code, entropy[(sample["domain"] == name).to_numpy()])
                for code, name in enumerate(self._data.domains)
            },
            "labels": {} if self._labels is None else {self._label: _count_labels(self._labels)},
        }
        return Report(numbers, sample, self._map.umap, self._map.own_distance, self._map.limit)

    def _summarize(self, cells: Any, entropy: NDArray[np.float64]) -> dict[str, Any]:
        distance = self._distance[cells]
        known = entropy[~np.isnan(entropy)]
        return {
            "n_cells": len(distance),
            "n_filtered": int(self._filtered[cells].sum()),
            "median_distance": float(np.median(distance)) if len(distance) else None,
            "share_outside": float((distance > self._map.limit).mean()) if len(distance) else None,
            "mixing": float(known.mean()) if len(known) >= MIN_MIXED else None,
        }

    def _compute_entropy(self, latent: NDArray[np.float32], outside: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the mixing with the reference around each sampled cell, (n_sampled,); NaN for cells that are outside."""
        entropy = np.full(len(latent), np.nan)
        inside = np.flatnonzero(~outside)
        if len(inside) >= MIN_MIXED:
            rows = self._map.rows
            rows = self._rng.choice(rows, min(N_SAMPLED, len(rows)), replace=False)
            both = np.concatenate([latent[inside], self._reference.latent[rows]])
            is_reference = np.arange(len(both)) >= len(inside)
            entropy[inside] = neighbor_entropy(both, is_reference, n_neighbors=30)[: len(inside)]
        return entropy

    def _summarize_features(self) -> dict[str, Any]:
        transform = self._data.transform
        found, weight = transform.found, self._reference.module.feature_weights()
        names = transform.preprocessor.features
        missing = names[~found][np.argsort(-weight[~found], kind="stable")]
        return {
            "n_used": len(names),
            "n_found": int(found.sum()),
            "share_found": float(found.mean()),
            "share_found_weighted": float(weight[found].sum()),
            "most_used_missing": [str(name) for name in missing[:20]],
            "n_matched_without_version": transform.match.n_without_version,
            "differ_in_case": [list(pair) for pair in transform.match.case_only[:20]],
        }
