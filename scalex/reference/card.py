"""The card of a packed reference: which cells, model and scores, for those who receive it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import anndata as ad
import pandas as pd

from scalex.features.species import describe_names
from scalex.preprocess import Preprocessor
from scalex.reference.about import About
from scalex.reference.finished_run import FinishedRun
from scalex.reference.label_transfer import has_label
from scalex.reference.place import CHECKPOINT, PICTURE
from scalex.report.training import MEANINGS
from scalex.system.overrides import format_for_shell

__all__ = ["make_card"]

# Rows of a table of domains or types; columns of obs whose types are listed, and the most types that such a column has.
MAX_ROWS, MAX_COLUMNS, MAX_TYPES = 40, 6, 200
NORMALIZATIONS = {
    "none": "values are used as they are",
    "total": "counts are normalized to a total of {:,.0f} for each cell, then log1p",
    "tfidf": "TF-IDF with a total of {:,.0f}, then log1p",
    "clr": "centred log-ratio of each cell",
}


def make_card(run: FinishedRun, cells: ad.AnnData, about: About, file: str, sha256: str, has_picture: bool) -> str:
    """Return the card of a packed reference, in Markdown.

    Parameters
    ----------
    run
        The reference.
    cells
        Its cells with the columns of obs that are packed: the card tells no others.
    about
        What its maker says of it.
    file
        Name of the packed file, for the lines that use it.
    sha256
        Checksum of the checkpoint.
    has_picture
        Whether the UMAP is beside the card.
    """
    described, preprocessor = run.describe(), run.trained_on.preprocessor
    facts: list[Sequence[Any]] = [
        ["cells", f"{cells.n_obs:,}, of which the model was trained on {described['n_training_cells']:,}"],
        ["species", about.species or "not given"],
        ["features", f"{described['n_features']:,} inputs of {len(preprocessor.kept_features):,} kept features"],
        ["names of features", describe_names(preprocessor.features)],
        ["new cells need", described["values"]],
        ["license", about.license or "not given: ask before you use or pass on this file"],
        ["contact", about.contact or "not given"],
        ["written by", f"scalex {version('scalex')}; trained by scalex {described['version']}"],
        ["history", "; ".join(f"{one['action']} ({one['n_cells']:,} cells)" for one in run.lineage)],
        [f"sha256 of {CHECKPOINT}", sha256],
    ]
    parts = [f"# {_escape(about.title or run.lineage[-1]['folder'])}", "A reference of SCALEX: new cells are projected into its space."]
    # Types come first, with the name that they have by default.
    labels = sorted(_list_labels(cells.obs), key=lambda name: name != "cell_type")
    parts += [_make_use(file, labels), _make_table(["", ""], facts), "## Domains", _count("domain", cells.obs["domain"])]
    for name in labels[:MAX_COLUMNS]:
        parts += [f"## {_escape(name)}", _count("type", cells.obs[name])]
    if not about.all_columns:
        parts.append(
            "Columns of the cells' annotation and their names were left out. Labels that are not listed here cannot be transferred."
        )
    parts += ["## Preprocessing", _describe_preprocessing(preprocessor), "## Model", f"{_escape(run.module.describe())}."]
    if run.scores:
        rows = [[name, f"{run.scores[name]:.3f}", *MEANINGS[name]] for name in MEANINGS if name in run.scores]
        note = "Of the cells of the training. More is better, except for `wrong`. Low `kept` and `kept_clusters` tell of over-correction."
        parts += ["## Scores", note, _make_table(["score", "value", "range", "what it tells"], rows)]
    if has_picture:
        parts += ["## The cells", f"![UMAP of the cells of the training]({PICTURE})"]
    return "\n\n".join(parts) + "\n"


def _make_use(file: str, labels: Sequence[str]) -> str:
    transfer = f'\nlabels = reference.transfer_labels("query.h5ad", {labels[0]!r}, batch_key="donor")' if labels else ""
    command = f"scalex project {format_for_shell('reference', file)} dataset.path=query.h5ad dataset.batch_key=donor output=projected"
    return f"```bash\n{command}\n```\n\n```python\nimport scalex\n\nreference = scalex.Reference.load({file!r}){transfer}\n```"


def _list_labels(obs: pd.DataFrame) -> Iterable[str]:
    """Yield the columns with labels, without clusters and without those that repeat the domains."""
    domain = obs["domain"].astype(str).to_numpy()
    for name, column in obs.items():
        if name in ("domain", "projection", "leiden") or not isinstance(column.dtype, pd.CategoricalDtype):
            continue
        known = has_label(pd.Categorical(column))
        if known.any() and column.nunique() <= MAX_TYPES and not (column.astype(str).to_numpy() == domain).all():
            yield str(name)


def _count(title: str, column: pd.Series) -> str:
    counts = column.value_counts()
    counts = counts[counts > 0]
    rows = [[name, f"{count:,}"] for name, count in counts.iloc[:MAX_ROWS].items()]
    if len(counts) > MAX_ROWS:
        rows.append([f"{len(counts) - MAX_ROWS:,} others", f"{counts.iloc[MAX_ROWS:].sum():,}"])
    if n_missing := int(column.isna().sum()):
        rows.append(["without a value", f"{n_missing:,}"])
    return _make_table([title, "cells"], rows)


def _describe_preprocessing(preprocessor: Preprocessor) -> str:
    normalization = NORMALIZATIONS[preprocessor.normalization].format(preprocessor.target_sum)
    steps = [
        f"Cells have at least {preprocessor.min_features:,} detected features",
        *(["values above 0 become 1"] if preprocessor.binarize else []),
        normalization,
        f"each input is divided by its largest value {'in the domain' if preprocessor.scaling == 'domain' else 'in all cells'}",
    ]
    return f"{'; '.join(steps)}. All of it is frozen with the model."


def _make_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_escape(str(cell)) for cell in line) + " |" for line in lines)


def _escape(text: str) -> str:
    """Return text as one line that Markdown shows as it is."""
    line = " ".join(str(text).split())
    for letter, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("]", "\\]")):
        line = line.replace(letter, shown)
    return line
