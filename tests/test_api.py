from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from tables import assert_same_table

import scalex
from scalex.model.presets import make_model

# The interface of the published package.
PUBLISHED_DEFAULTS = {
    "data_list": None,
    "batch_categories": None,
    "profile": "RNA",
    "batch_name": "batch",
    "min_features": 600,
    "min_cells": 3,
    "target_sum": None,
    "n_top_features": None,
    "join": "inner",
    "batch_key": "batch",
    "processed": False,
    "fraction": None,
    "n_obs": None,
    "use_layer": "X",
    "backed": False,
    "batch_size": 64,
    "lr": 0.0002,
    "max_iteration": 30000,
    "seed": 124,
    "gpu": 0,
    "outdir": None,
    "projection": None,
    "repeat": False,
    "impute": None,
    "chunk_size": 20000,
    "ignore_umap": False,
    "verbose": False,
    "assess": False,
    "show": True,
    "eval": False,
    "num_workers": 4,
}


def run_scalex(data: Any, **kwargs: Any) -> AnnData:
    """Return the result of a short run of `SCALEX`."""
    return scalex.SCALEX(data, **{"min_features": 0, "max_iteration": 4, "ignore_umap": True, "show": False} | kwargs)


def test_the_signature_is_that_of_the_published_package() -> None:
    parameters = inspect.signature(scalex.SCALEX).parameters
    assert {name: p.default for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY} == PUBLISHED_DEFAULTS
    assert list(parameters)[: len(PUBLISHED_DEFAULTS)] == list(PUBLISHED_DEFAULTS)


def test_the_docstring_describes_every_parameter() -> None:
    documented = inspect.getdoc(scalex.SCALEX) or ""
    described = {name.strip() for line in documented.splitlines() if line and not line.startswith(" ") for name in line.split(",")}
    assert set(inspect.signature(scalex.SCALEX).parameters) <= described


def test_an_unknown_profile_is_an_error(demo: AnnData) -> None:
    with pytest.raises(ValueError, match="profile='DNA': allowed are RNA, ATAC, ADT; for values that are ready use processed=True"):
        run_scalex(demo, profile="DNA")


def test_the_profile_atac_takes_peaks(demo: AnnData) -> None:
    adata = run_scalex(demo, profile="ATAC", n_top_features=50, binarize=True, normalization="tfidf")
    assert adata.shape == (300, 50)
    counts = (demo.X > 0).toarray()
    assert set(adata.var_names) == set(demo.var_names[np.argsort(-counts.sum(0), kind="stable")[:50]])
    total = run_scalex(demo, profile="ATAC", n_top_features=500)
    np.testing.assert_allclose(np.expm1(total.raw.X.toarray()).sum(1), 1e4, rtol=1e-4)


def test_the_profile_adt_uses_all_proteins(demo: AnnData) -> None:
    proteins = demo[:, :40].copy()
    assert run_scalex(proteins, profile="ADT").shape == (300, 40)
    with pytest.raises(ValueError, match="n_top_features=10: with profile='ADT' all proteins are used"):
        run_scalex(proteins, profile="ADT", n_top_features=10)


@pytest.mark.parametrize(("profile", "min_features"), [("RNA", 600), ("ATAC", 100), ("ADT", 1)])
def test_the_default_of_min_features_is_that_of_the_profile(demo: AnnData, profile: str, min_features: int) -> None:
    sparse_cells = AnnData(demo.X[:, :90], obs=demo.obs, var=demo.var.iloc[:90])
    if min_features > 90:
        with pytest.raises(ValueError, match=f"min_features={min_features} drops all 300 cells"):
            scalex.SCALEX(sparse_cells, profile=profile, max_iteration=2, ignore_umap=True)
    else:
        assert scalex.SCALEX(sparse_cells, profile=profile, max_iteration=2, ignore_umap=True).n_obs == 300
    # The default of RNA can be given to any profile.
    with pytest.raises(ValueError, match="min_features=600 drops all 300 cells"):
        run_scalex(sparse_cells, profile=profile, min_features=600)


def test_no_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="data_list is None"):
        scalex.SCALEX()


def test_without_a_folder_nothing_is_written(demo: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = demo.copy()
    adata = run_scalex(demo, ignore_umap=False, assess=True)
    assert list(tmp_path.iterdir()) == []
    assert adata.uns["scalex"]["scores"].keys() >= {"entropy_mixing", "silhouette", "ari", "nmi"}
    assert adata.obsm["X_umap"].shape == (300, 2)
    assert_same_table(demo.obs, before.obs)
    assert (demo.X != before.X).nnz == 0


def test_the_folder_holds_the_four_results(demo: AnnData, tmp_path: Path) -> None:
    adata = run_scalex(demo, outdir=tmp_path / "out", ignore_umap=False)
    assert {"adata.h5ad", "checkpoint", "log.txt", "umap.pdf"} <= {path.name for path in (tmp_path / "out").iterdir()}
    written = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    np.testing.assert_array_equal(written.obsm["latent"], adata.obsm["latent"])
    with pytest.raises(FileExistsError, match="holds another run's results"):
        run_scalex(demo, outdir=tmp_path / "out")


def test_several_sources_are_the_domains(demo: AnnData) -> None:
    adata = run_scalex([demo[:150].copy(), demo[150:].copy()], batch_categories=["first", "second"])
    assert adata.obs["domain"].value_counts().to_dict() == {"first": 150, "second": 150}
    assert (adata.obs["batch"] == adata.obs["domain"]).all()


def test_eval_determines_the_statistics_of_the_encoder(demo: AnnData) -> None:
    running = run_scalex(demo, eval=True)
    subset = run_scalex(demo, eval=False)
    assert not np.allclose(running.obsm["latent"], subset.obsm["latent"])


def test_the_same_seed_gives_exactly_the_same_latents(demo: AnnData) -> None:
    first, again, other = (run_scalex(demo, seed=seed).obsm["latent"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_processed_values_are_only_scaled(demo: AnnData) -> None:
    adata = run_scalex(demo, processed=True)
    expected = demo.X.toarray() / np.maximum(demo.X.toarray().max(0), 1e-30)
    np.testing.assert_allclose(adata.X.toarray(), expected, rtol=1e-6)
    demo.layers["double"] = demo.X * 2
    np.testing.assert_allclose(run_scalex(demo, use_layer="double").X.toarray(), expected, rtol=1e-6)


def test_raw_is_normalized_expression_of_all_kept_features(demo: AnnData) -> None:
    adata = run_scalex(demo, n_top_features=50)
    assert adata.shape == (300, 50)
    assert adata.raw.shape == (300, 500)
    np.testing.assert_allclose(np.expm1(adata.raw.X.toarray()).sum(1), 1e4, rtol=1e-4)


def test_one_domain_is_integrated_and_logged(demo: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    del demo.obs["batch"]
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("scalex").addHandler(handler)
    adata = run_scalex(demo, assess=True)
    logging.getLogger("scalex").removeHandler(handler)
    assert any(one.startswith("There is one domain, so there are no differences between domains to remove.") for one in messages)
    assert "entropy_mixing" not in adata.uns["scalex"]["scores"]
    assert np.isfinite(adata.obsm["latent"]).all()


def test_a_single_type_is_not_scored(demo: AnnData) -> None:
    demo.obs["cell_type"] = pd.Categorical(["unlabelled"] * demo.n_obs)
    scores = run_scalex(demo, ignore_umap=False, assess=True).uns["scalex"]["scores"]
    of_mixing = {"entropy_mixing", "entropy_mixing_inputs", "entropy_mixing_permuted", "mixed", "shared"}
    of_structure = {"kept", "kept_clusters", "silhouette"}
    assert scores.keys() == of_mixing | of_structure | {"biology", "total", "umap_entropy_mixing", "umap_silhouette"}


def test_a_domain_may_have_one_cell(demo: AnnData) -> None:
    demo.obs["batch"] = ["one"] + ["rest"] * 299
    for is_eval in (True, False):
        assert np.isfinite(run_scalex(demo, eval=is_eval).obsm["latent"]).all()


def test_one_cell_is_an_error(demo: AnnData) -> None:
    with pytest.raises(ValueError, match="There is 1 cell"):
        run_scalex(demo[:1].copy())


def test_one_kept_cell_is_an_error(demo: AnnData) -> None:
    detected = np.sort(np.diff(demo.X.tocsr().indptr))
    with pytest.raises(ValueError, match="1 cell is left of 300 after min_features"):
        run_scalex(demo, min_features=int(detected[-1]), min_cells=0)


def test_few_cells_have_no_umap(demo: AnnData) -> None:
    adata = run_scalex(demo[::30].copy(), ignore_umap=False, assess=True)
    assert "X_umap" not in adata.obsm
    assert adata.n_obs == 10


def test_annotation_that_cannot_be_written_is_converted(demo: AnnData, tmp_path: Path) -> None:
    plain = run_scalex(demo)
    demo.obs["mixed"] = [1, "a"] * 150
    demo.obs["batch"] = demo.obs["batch"].astype("string")
    demo.obs.index.name = "batch"
    found = run_scalex(demo, outdir=tmp_path / "out")
    for adata in (found, ad.read_h5ad(tmp_path / "out" / "adata.h5ad")):
        np.testing.assert_array_equal(adata.obsm["latent"], plain.obsm["latent"])
        assert list(adata.obs["mixed"]) == ["1", "a"] * 150
        assert list(adata.obs["batch"]) == list(plain.obs["batch"])


def test_counts_in_raw_and_in_layers_are_those_of_x(demo: AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run_scalex(demo)
    demo.raw = demo
    demo.layers["counts"] = demo.X.copy()
    demo.X = sparse.csr_matrix(np.log1p(demo.X.toarray() / 10))
    for options in ({"use_layer": "raw"}, {"counts_layer": "raw"}, {"counts_layer": "counts"}):
        np.testing.assert_array_equal(run_scalex(demo, **options).obsm["latent"], plain.obsm["latent"])
    assert {line.split()[0] for line in capsys.readouterr().err.splitlines()} == {"Cells:", "Trained"}
    run_scalex(demo)
    shown = capsys.readouterr().err
    assert "The values look normalized" in shown
    assert "Whole numbers, as counts are, are in raw and counts. To use them: dataset.layer=raw (SCALEX: counts_layer='raw')" in shown
    run_scalex(demo, use_layer="counts")
    assert "All values are whole numbers, as counts are, but they are only scaled" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["path", "object"])
def test_cells_in_their_file_get_the_latents_of_cells_in_memory(demo: AnnData, tmp_path: Path, how: str) -> None:
    demo.write_h5ad(tmp_path / "cells.h5ad")
    given = tmp_path / "cells.h5ad" if how == "path" else ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    backed = run_scalex(given, backed=how == "path")
    assert backed.X is None
    np.testing.assert_array_equal(backed.obsm["latent"], run_scalex(demo).obsm["latent"])


def test_a_folder_that_cannot_be_made_is_an_error(demo: AnnData, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write to the output folder"):
        run_scalex(demo, outdir=tmp_path / "file" / "out")


def test_the_logging_of_the_caller_does_not_change(demo: AnnData, tmp_path: Path) -> None:
    package = logging.getLogger("scalex")
    before = (package.level, package.propagate, list(package.handlers))
    run_scalex(demo, outdir=tmp_path / "out", verbose=True)
    assert (package.level, package.propagate, list(package.handlers)) == before


def test_projected_training_cells_keep_their_latents(demo: AnnData, tmp_path: Path) -> None:
    """An encoder with running statistics ignores the order of the cells and the other cells."""
    import torch

    from scalex.data import CellBatch
    from scalex.model.module import ScalexModule
    from scalex.nn import SparseRows

    adata = run_scalex(demo, eval=True, outdir=tmp_path / "out")
    module = ScalexModule.from_checkpoint(tmp_path / "out" / "checkpoint" / "best.ckpt")
    assert module.trained_on is not None
    few = demo[[5, 3]].copy()
    rows = module.trained_on.preprocessor.for_features(few.var_names)(few.X.tocsr(), np.array([-1, -1]))
    (found,) = module.embed([CellBatch(SparseRows.of(rows), torch.tensor([-1, -1]), torch.arange(2))], "running")
    latent = found.latent_CZ
    np.testing.assert_array_equal(latent.numpy(), adata.obsm["latent"][[5, 3]])


def test_real_cells_are_integrated(find_real: Any) -> None:
    path = find_real("celllines_mixology.h5ad")
    adata = run_scalex(path, min_features=600, max_iteration=60, lr=3e-3, eval=True, assess=True)
    assert adata.shape == (1021, 2000)
    assert adata.uns["scalex"]["scores"]["nmi"] > 0.5


class TestProjection:
    @pytest.mark.parametrize(("is_eval", "statistics"), [(True, "running"), (False, "domain")])
    def test_equals_that_of_the_reference(self, trained: Any, is_eval: bool, statistics: Any) -> None:
        reference = scalex.Reference.load(trained.folder)
        for repeat in (False, True):
            found = run_scalex(trained.query, projection=trained.folder, repeat=repeat, eval=is_eval)
            expected = reference.project(trained.query, repeat=repeat, statistics=statistics)
            assert list(found.obs_names) == list(expected.obs_names)
            np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
            np.testing.assert_array_equal(found.obsm["X_umap"], expected.obsm["X_umap"])
            assert list(found.obs["cell_type_label"]) == list(expected.obs["cell_type_label"])
            assert (found.X is None) == (not repeat)

    def test_can_be_written_to_a_folder(self, trained: Any, tmp_path: Path) -> None:
        found = run_scalex(trained.query, projection=str(trained.folder), outdir=tmp_path / "out", impute="domain1", eval=True)
        assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adata.h5ad", "report.json", "projection.pdf", "log.txt"}
        expected = scalex.Reference.load(trained.folder).project(trained.query, impute="domain1")
        np.testing.assert_array_equal(found.layers["impute"], expected.layers["impute"])
        np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "out" / "adata.h5ad").obsm["latent"], found.obsm["latent"])
        with pytest.raises(FileExistsError, match="holds another run's results"):
            run_scalex(trained.query, projection=trained.folder, outdir=tmp_path / "out")

    def test_writes_nothing_without_a_folder(self, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        run_scalex(trained.query, projection=trained.folder)
        assert list(tmp_path.iterdir()) == []

    def test_has_several_sources_as_domains(self, trained: Any) -> None:
        query = trained.query
        sources = [query[:60].copy(), query[60:].copy()]
        found = run_scalex(sources, batch_categories=["first", "second"], projection=trained.folder, repeat=True, eval=True)
        assert found.obs["domain"].value_counts().to_dict() == {"first": 60, "second": 106}
        expected = scalex.Reference.load(trained.folder).embed(query)
        np.testing.assert_array_equal(found.obsm["latent"], expected)

    def test_needs_a_reference(self, trained: Any, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is not a reference: it lacks"):
            run_scalex(trained.query, projection=tmp_path)


def test_a_training_can_impute(demo: AnnData, tmp_path: Path) -> None:
    adata = run_scalex(demo, impute=True, eval=True, outdir=tmp_path / "own")
    reference = scalex.Reference.load(tmp_path / "own")
    np.testing.assert_allclose(adata.layers["impute"], reference.impute(demo).layers["impute"], rtol=1e-5)
    through = run_scalex(demo, impute="domain1", eval=True)
    np.testing.assert_allclose(through.layers["impute"], reference.impute(demo, "domain1").layers["impute"], rtol=1e-5)


def test_imputation_through_an_unknown_domain_is_an_error_before_the_training(demo: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not know the domain\(s\) domain9.* It knows: domain0, domain1, domain2"):
        run_scalex(demo, impute="domain9", outdir=tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_cells_may_stay_in_their_files(demo: AnnData, tmp_path: Path) -> None:
    halves = [demo[demo.obs["batch"] == name].copy() for name in ("domain0", "domain1")]
    paths = [tmp_path / f"{i}.h5ad" for i in range(2)]
    for half, path in zip(halves, paths, strict=True):
        half.write_h5ad(path)
    options = {"max_iteration": 10, "min_features": 0, "ignore_umap": True}
    adata = scalex.SCALEX([str(path) for path in paths], backed=True, outdir=tmp_path / "run", **options)
    assert adata.X is None
    assert list(adata.obs["batch"].unique()) == ["0", "1"]
    assert list(adata.obs_names) == [name for half in halves for name in half.obs_names]
    # The same cells are projected from memory.
    found = scalex.Reference.load(tmp_path / "run").embed(demo[adata.obs_names].copy(), batch_key="batch")
    np.testing.assert_allclose(found, adata.obsm["latent"], atol=1e-5)


def test_functions_of_scanpy_work_on_the_result(demo: AnnData) -> None:
    adata = run_scalex(demo, n_top_features=50, ignore_umap=False, max_iteration=30)
    sc.tl.rank_genes_groups(adata, "leiden", method="wilcoxon")
    names = set(sc.get.rank_genes_groups_df(adata, None)["names"])
    # The names are those of all kept features, not only of the input features.
    assert names == set(adata.raw.var_names)
    sc.tl.paga(adata, "leiden")
    sc.tl.score_genes(adata, list(demo.var_names[:20]))
    sc.tl.dendrogram(adata, "leiden", use_rep="latent")
    assert sc.pl.umap(adata, color=["domain", "leiden", demo.var_names[0]], show=False) is not None
    plt.close("all")


def test_several_columns_can_define_the_domains(demo: AnnData) -> None:
    demo.obs["half"] = np.where(np.arange(300) < 150, "first", "second")
    adata = run_scalex(demo, batch_name="batch,half")
    assert set(adata.obs["domain"]) == set(demo.obs["batch"].astype(str) + "_" + demo.obs["half"])


def test_verbose_prints_the_log(demo: AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    run_scalex(demo)
    assert "Uses" not in capsys.readouterr().err
    run_scalex(demo, verbose=True)
    assert "Uses 500 input features" in capsys.readouterr().err


def test_fraction_and_n_obs_sample_cells_by_domain(demo: AnnData) -> None:
    adata = run_scalex(demo, fraction=0.3)
    assert adata.n_obs == 90
    shares = adata.obs["batch"].value_counts() - demo.obs["batch"].value_counts() * 0.3
    assert (shares.abs() < 1).all()
    assert list(run_scalex(demo, n_obs=90).obs_names) == list(adata.obs_names)


class TestModels:
    def test_the_models_of_the_command_line_have_their_own_settings(self) -> None:
        cells = scalex.demo_cells(80, 400, 2, seed=1)
        adata = scalex.SCALEX(cells, min_features=0, model="scalex", max_iteration=2, ignore_umap=True)
        assert adata.obsm["latent"].shape[1] == 30
        model = make_model("scalex")
        assert (model.hparams["likelihood"], model.hparams["batch_size"]) == ("negative_binomial", None)
        paper = make_model("paper")
        defaults = {name: one.default for name, one in inspect.signature(scalex.SCALEX).parameters.items()}
        assert (paper.hparams["batch_size"], paper.hparams["lr"]) == (defaults["batch_size"], defaults["lr"])
        assert paper.hparams["max_steps"] == defaults["max_iteration"]

    def test_a_model_that_does_not_exist_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"model='scalx': there is no such model; did you mean scalex\?"):
            scalex.SCALEX(scalex.demo_cells(80, 400), model="scalx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_name": "donor"}, "batch_name='donor' is not in obs"),
        ({"use_layer": "counts"}, "use_layer='counts' is not in "),
        ({"counts_layer": "raw"}, "raw"),
    ],
)
def test_errors_name_the_parameters_of_scalex(arguments: dict[str, str], message: str) -> None:
    with pytest.raises((KeyError, ValueError), match=message) as error:
        scalex.SCALEX(scalex.demo_cells(80, 400), min_features=0, **arguments)  # type: ignore[arg-type]
    assert "batch_key=" not in str(error.value)
    assert "dataset." not in str(error.value)


def test_a_folder_in_use_is_refused_in_the_words_of_scalex(tmp_path: Path) -> None:
    (tmp_path / "adata.h5ad").touch()
    with pytest.raises(FileExistsError, match=r"\(adata.h5ad\)\. Choose another folder with outdir=\.$"):
        scalex.SCALEX(scalex.demo_cells(80, 400), outdir=tmp_path)


def test_a_notebook_shows_a_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    scalex.SCALEX(scalex.demo_cells(80, 400), min_features=0, max_iteration=2, assess=True, ignore_umap=True)
    assert [line.split(" ")[0].rstrip(":") for line in capsys.readouterr().err.splitlines()] == ["Cells", "Trained", "Scores"]


def test_a_reference_is_a_table_in_a_notebook(tmp_path: Path) -> None:
    scalex.SCALEX(scalex.demo_cells(80, 400), min_features=0, max_iteration=2, ignore_umap=True, outdir=tmp_path)
    table = scalex.Reference.load(tmp_path)._repr_html_()
    assert '<th style="text-align:left">n_cells</th><td style="text-align:left">80</td>' in table
