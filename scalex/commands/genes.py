"""The command ``scalex genes``: markers, sums of samples and tests between conditions of a finished run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalex.commands.plain import run_plain
from scalex.system.settings import Count, describe_nearest

__all__ = ["genes"]

# Column of obs with the names of several files.
FILE = "file"

HELP = """Markers of a finished run, sums of its samples, and tests between conditions.

  scalex genes markers run=run groupby=cell_type output=markers.csv
  scalex genes pseudobulk path=cells.h5ad run=run label=leiden sample=donor condition=treated output=sums.h5ad
  scalex genes compare path=sums.h5ad label=leiden condition=treated treated=yes baseline=no sample=donor output=changes.csv

markers: features that are higher in one group than in the others, as table and dot plot
  run=???               the folder of the run, or an .h5ad file with log-normalized expression in raw
  output=???            the table; the figure gets its name with .png
  groupby=leiden        column of obs with the groups
  domain=domain         column of obs with the domains, in which a marker may hold or not; null: none
  n_features=100        features of each group

pseudobulk: sums of the counts of each type and sample
  path=???              the file with raw counts, or those of the run: [a.h5ad,b.h5ad]; .h5ad and .zarr are read in chunks;
                        of several files, column file of obs has their names
  label=???             column of obs with types or clusters
  sample=???            column of obs with the samples (donors)
  output=???            the .h5ad file with the sums
  condition=null        column of obs with conditions
  run=null              the folder of a run whose clusters, labels and cells are used; null: the columns of the file with the counts
  layer=X               the matrix with the counts
  min_cells=10          groups of fewer cells are dropped, and listed

compare: test each type for a difference between two conditions, by PyDESeq2 (pip install 'scalex[de]')
  path=???              sums, as pseudobulk writes them
  label=???  condition=???  sample=???          columns of obs, as above
  treated=???  baseline=???                     the two conditions
  output=???            the table
  adjust_for=[domain]   columns of obs whose effects are removed first; []: none
  min_replicates=2      fewest samples on each side

P-values of markers of clusters are no tests: the clusters were found in the same cells.
"""


def genes(arguments: Sequence[str]) -> None:
    """Run the action that the first argument names.

    Raises
    ------
    SystemExit
        For an error of the user, with one line.
    """
    action, *settings = arguments or ["--help"]
    if action in ("--help", "-h"):
        sys.stdout.write(HELP)
    elif action not in ACTIONS:
        sys.exit(f"scalex genes {action}: there is no such action{describe_nearest(action, ACTIONS)}")
    else:
        run_plain(f"scalex genes {action}", ACTIONS[action], settings, HELP)


def write_markers(*, run: str, output: str, groupby: str = "leiden", domain: str | None = "domain", n_features: Count = 100) -> None:
    """Write a table of markers, and draw the best."""
    target = _check_output(output, ".csv")
    _check_output(str(target.with_suffix(".png")), ".png")
    import anndata as ad

    from scalex.genes import find_markers
    from scalex.pl import markers
    from scalex.runs.log import show_log
    from scalex.system.atomic_files import atomic_write

    adata = ad.read_h5ad(_find_cells(run))
    with show_log(verbose=True):
        table = find_markers(adata, groupby, domain=domain, n_features=n_features)
    with atomic_write(target) as path:
        table.to_csv(path, index=False, float_format="%.4g")
    figure = markers(adata, table, groupby).get_figure(root=True)
    assert figure is not None
    with atomic_write(target.with_suffix(".png")) as path:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    sys.stdout.write(f"Wrote {target} and {target.with_suffix('.png')}\n")


def write_pseudobulk(
    *,
    path: str | list[str],
    label: str,
    sample: str,
    output: str,
    condition: str | None = None,
    run: str | None = None,
    layer: str = "X",
    min_cells: Count = 10,
) -> None:
    """Write the sums of the counts of each type and sample."""
    target = _check_output(output, ".h5ad")
    import anndata as ad

    from scalex.cells import AnnDataSource
    from scalex.genes import make_pseudobulk
    from scalex.runs.log import show_log
    from scalex.system.atomic_files import atomic_write

    with show_log(verbose=True):
        obs = None if run is None else ad.read_h5ad(_find_cells(run), backed="r").obs
        paths = [path] if isinstance(path, str) else path
        backed = all(Path(one).suffix in (".h5ad", ".zarr") for one in paths)
        source = AnnDataSource(path=path, layer=layer, backed=backed, source_key=FILE)
        sums = make_pseudobulk(source, label=label, sample=sample, condition=condition, obs=obs, min_cells=min_cells)
        with atomic_write(target) as unfinished:
            sums.write_h5ad(unfinished)
    sys.stdout.write(f"Wrote {target} ({sums.n_obs} sums x {sums.n_vars:,} features)\n")


def write_comparison(
    *,
    path: str,
    label: str,
    condition: str,
    treated: str,
    baseline: str,
    sample: str,
    output: str,
    adjust_for: str | Sequence[str] = ("domain",),
    min_replicates: Count = 2,
) -> None:
    """Write the tests between two conditions."""
    target = _check_output(output, ".csv")
    import anndata as ad

    from scalex.genes import compare_conditions
    from scalex.runs.log import show_log
    from scalex.system.atomic_files import atomic_write

    with show_log(verbose=True):
        found = compare_conditions(
            ad.read_h5ad(_find_cells(path)),
            label,
            condition,
            treated=treated,
            baseline=baseline,
            sample=sample,
            adjust_for=adjust_for,
            min_replicates=min_replicates,
        )
    with atomic_write(target) as unfinished:
        found.table.to_csv(unfinished, index=False, float_format="%.5g")
    sys.stdout.write(f"Wrote {target} ({len(found.table):,} tests)\n")


def _check_output(output: str, ending: str) -> Path:
    """Return the path of a new file. Raises an error for another ending, or for a file that exists."""
    path = Path(output)
    if path.suffix != ending:
        raise ValueError(f"output={output}: the name of the file must end with {ending}.")
    if path.exists():
        raise FileExistsError(f"output={output} exists, and is not overwritten. Choose another name, or remove it.")
    return path


def _find_cells(given: str) -> Path:
    """Return the .h5ad file of a run folder, or the file itself."""
    path = Path(given) / "adata.h5ad" if Path(given).is_dir() else Path(given)
    if path.suffix != ".h5ad" or not path.is_file():
        raise FileNotFoundError(f"{given}: no .h5ad file and no folder of a finished run. A packed reference (.zip) has no expression.")
    return path


ACTIONS: Mapping[str, Callable[..., Any]] = {"markers": write_markers, "pseudobulk": write_pseudobulk, "compare": write_comparison}
