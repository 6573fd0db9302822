"""The reports of a training and of a projection, written by the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from commands import run_command

import scalex
from scalex.callbacks.scores import SCORE_NAMES
from scalex.genes import find_markers
from scalex.pages.page import Section, make_table, read_warnings, write_page
from scalex.report.training import MEANINGS, write_training_report

SHORT = ["dataset.n_cells=300", "dataset.n_features=400", "preprocess.min_features=0", "model.max_steps=5", "trainer=cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = run_command("train.py", *SHORT, "output=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Wrote run/report.html" in done.stderr
    return folder / "run"


def read(path: Path) -> str:
    """Return a page without the code of plotly."""
    head, _, rest = path.read_text().partition("<script>")
    return head + rest.partition("</script>")[2]


def test_the_report_of_a_training_has_all_its_parts(run: Path) -> None:
    page = read(run / "report.html")
    titles = ("Cells", "Scores", "Domains in the clusters", "What was read and kept", "Training", "Settings", "Versions")
    for title in titles:
        assert f"<h2>{title}</h2>" in page
    scores = read_h5ad(run / "adata.h5ad").uns["scalex"]["scores"]
    for name, value in scores.items():
        assert f'<td>{name}</td><td class="number">{value:.3f}</td>' in page
    assert "<td>model.max_steps</td><td>5</td>" in page
    assert "Read AnnData: 300 cells x 400 features" in page
    for column in ("domain", "cell_type", "leiden", "expression of gene"):
        assert f'"name": "{column}' in page


def test_every_score_is_explained(run: Path) -> None:
    assert set(SCORE_NAMES) <= set(MEANINGS)
    assert set(read_h5ad(run / "adata.h5ad").uns["scalex"]["scores"]) <= set(MEANINGS)


def test_the_report_of_a_projection_compares_labels(run: Path, tmp_path: Path) -> None:
    cells = scalex.demo_cells(200, 400, seed=124)
    cells.write_h5ad(tmp_path / "query.h5ad")
    arguments = [f"reference={run}", "dataset.path=query.h5ad", "dataset.batch_key=batch", "trainer=cpu"]
    done = run_command("project.py", *arguments, "output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = read(tmp_path / "out" / "report.html")
    for title in ("Do the cells fit?", "Cells", "Distances", "Labels", "Features", "Settings"):
        assert f"<h2>{title}</h2>" in page
    assert "whose <code>cell_type</code> was given" in page
    assert "200 new cells" in page
    alone = run_command("project.py", *arguments, "repeat=true", "output=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert "200 new cells" in read(tmp_path / "alone" / "report.html")


def test_genes_of_the_user_are_drawn_and_missing_ones_are_named(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = read_h5ad(run / "adata.h5ad")
    gene = str(adata.raw.var_names[7])
    with caplog.at_level("WARNING", "scalex"):
        write_training_report(tmp_path, adata, label_key="cell_type", genes=[gene, "CD3D"], parameters={})
    assert "the cells have no CD3D" in caplog.text
    page = read(tmp_path / "report.html")
    assert page.count('"name": "expression of ') == 1
    assert f'"name": "expression of {gene}"' in page


def test_markers_of_the_clusters_are_listed_with_the_domains_that_agree(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(1, (240, 4)).astype(np.float32)
    cluster, domain = np.repeat(["0", "1"], 120), np.tile(["a", "b"], 120)
    counts[cluster == "1", 2] += 5
    counts[(cluster == "0") & (domain == "a"), 1] += 5
    counts[(cluster == "1") & (domain == "b"), 1] += 1
    obs = pd.DataFrame({"leiden": pd.Categorical(cluster), "domain": pd.Categorical(domain)}, index=[f"c{i}" for i in range(240)])
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=["g0", "<g1>", "g2", "g3"]), obsm={"X_umap": counts[:, :2]})
    adata.raw = adata
    write_training_report(tmp_path, adata, label_key="cell_type", parameters={})
    page = read(tmp_path / "report.html")
    found = find_markers(adata)
    auroc = {(str(group), feature): value for group, feature, value in zip(found["group"], found["feature"], found["auroc"], strict=True)}
    assert f"&lt;g1&gt; ({auroc['0', '<g1>']:.2f}, 1 of 2 domains)" in page
    assert f"<td>g2 ({auroc['1', 'g2']:.2f})" in page
    # The best markers colour the map.
    assert page.count('"name": "expression of ') == len(set(found.loc[found["score"] > 0, "feature"]))
    # Three cells are no cluster with markers.
    write_training_report(tmp_path, adata[:123], label_key="cell_type", parameters={})
    page = read(tmp_path / "report.html")
    assert "Markers of the clusters" not in page
    assert "expression of" not in page


def test_a_training_on_large_values_is_not_lost_for_want_of_markers(tmp_path: Path) -> None:
    cells = scalex.demo_cells(200, 400)
    cells.X = cells.X * 100
    scalex.SCALEX(cells, processed=True, max_iteration=20, n_top_features=50, outdir=tmp_path / "run", show=False)
    assert read_h5ad(tmp_path / "run" / "adata.h5ad").n_obs == 200
    assert "Markers of the clusters" not in read(tmp_path / "run" / "report.html")
    assert "The report has no markers: Markers need logarithmic expression" in (tmp_path / "run" / "log.txt").read_text()


def test_clusters_of_one_domain_are_named(tmp_path: Path) -> None:
    obs = pd.DataFrame({"leiden": pd.Categorical(["0"] * 40 + ["1"] * 40), "domain": pd.Categorical(["a", "b"] * 20 + ["b"] * 40)})
    obs.index = obs.index.astype(str)
    write_training_report(tmp_path, AnnData(np.zeros((80, 1), np.float32), obs=obs), label_key="cell_type", parameters={})
    page = read(tmp_path / "report.html")
    assert "<td>1</td><td>b</td><td>100.0%</td>" in page
    # Without a UMAP, there is no map.
    assert "<h2>Cells</h2>" not in page


def test_warnings_come_first_and_text_is_escaped(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("2026-01-01 00:00:00 INFO Read\n2026-01-01 00:00:01 WARNING 3 < 4 cells\n2026-01-01 00:00:01 WARNING 3 < 4 cells\n")
    write_page(tmp_path / "page.html", "a <b>", "", [Section("Empty", ""), Section("Full", "<p>x</p>")], read_warnings(log))
    page = read(tmp_path / "page.html")
    assert page.count("<li>3 &lt; 4 cells</li>") == 1
    assert page.index("3 &lt; 4 cells") < page.index("<h2>Full</h2>")
    assert "<h1>a &lt;b&gt;</h1>" in page
    assert "Empty" not in page
    assert read_warnings(tmp_path / "absent") == []


def test_numbers_of_a_table_are_aligned() -> None:
    table = make_table(["name", "cells", "share"], [["a<", 1234, 0.5], ["b", None, None]])
    assert "<td>a&lt;</td>" in table
    assert '<td class="number">1,234</td><td class="number">0.500</td>' in table
