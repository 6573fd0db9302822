"""Tests of continued training: what the model keeps, what new domains start from, and when the result is refused."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning import Callback, LightningModule, Trainer
from scipy import sparse

import scalex
from scalex.callbacks import Checkpoint, LatentExport
from scalex.cells import AnnDataSource
from scalex.metrics import scores
from scalex.model.base import Model
from scalex.model.module import ScalexModule
from scalex.model.trained_on import TrainedOn
from scalex.preprocess import RnaRecipe
from scalex.projection.reference import Reference
from scalex.projection.to_folder import project_to
from scalex.report.training import write_training_report
from scalex.training.fit import fit
from scalex.training.growth import grow


class RecordStart(Callback):
    """Record the weights and the learning rates at the start of the training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        self.rates = {id(parameter): group["lr"] for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
        self.rate_of = {name: self.rates[id(parameter)] for name, parameter in pl_module.named_parameters()}
        self.n_groups = len(trainer.optimizers[0].param_groups)


def grow_to(
    folder: Path, reference: Reference, query: Any, module: ScalexModule | None = None, **options: Any
) -> tuple[AnnData, RecordStart]:
    start = RecordStart()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=20,
        callbacks=[Checkpoint(folder), LatentExport(folder), start],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = module or ScalexModule(lr=1e-3, batch_size=64)
    return grow(reference, AnnDataSource(path=query), module, trainer, folder=folder, **options), start


def hash_files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoint" / "best.ckpt", weights_only=True)["state_dict"]
    return state


def make_query(trained: Any) -> AnnData:
    """Return cells of two new domains, whose names sort before and after those of the old domains, and of one old domain."""
    query: AnnData = trained.query.copy()
    query.obs["batch"] = pd.Categorical(np.where(np.arange(query.n_obs) < 70, "a new one", "domain2"))
    query.obs.loc[query.obs_names[-20:], "batch"] = np.nan
    query.obs["batch"] = query.obs["batch"].cat.add_categories("domain1").fillna("domain1")
    query.obs["dose"] = np.arange(query.n_obs)
    return query


class Grown(NamedTuple):
    folder: Path
    adata: AnnData
    start: RecordStart
    query: AnnData
    old_folder: dict[str, str]


@pytest.fixture(scope="module")
def reference(trained: Any) -> Reference:
    return Reference.load(trained.folder)


@pytest.fixture(scope="module")
def grown(trained: Any, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown") / "second"
    before = hash_files(trained.folder)
    query = make_query(trained)
    adata, start = grow_to(folder, reference, query, allowed_fall=2)
    return Grown(folder, adata, start, query, before)


def keep_rich_cells(grown: Grown, trained: Any) -> AnnData:
    """Return the new cells with enough features."""
    return grown.query[np.diff(grown.query.X.indptr) >= trained.min_features].copy()


def test_new_cells_with_enough_features_follow_the_old_ones(grown: Grown, trained: Any, reference: Reference) -> None:
    n_old, new = reference.cells.n_obs, keep_rich_cells(grown, trained)
    adata = ad.read_h5ad(grown.folder / "adata.h5ad")
    assert 0 < new.n_obs < grown.query.n_obs
    assert list(adata.obs_names) == [*reference.cells.obs_names, *new.obs_names]
    assert list(adata.obs["projection"]) == ["reference"] * n_old + ["query"] * new.n_obs
    assert list(adata.obs["domain"]) == [*reference.cells.obs["domain"], *new.obs["batch"]]
    assert list(adata.obs["cell_type"]) == [*reference.cells.obs["cell_type"], *new.obs["cell_type"]]
    assert adata.obs["dose"][n_old:].tolist() == new.obs["dose"].tolist()
    np.testing.assert_array_equal(adata.obsm["latent"], grown.adata.obsm["latent"])


def test_the_old_folder_does_not_change(grown: Grown, trained: Any) -> None:
    assert hash_files(trained.folder) == grown.old_folder


def test_preprocessing_stays_and_new_domains_follow_the_old_ones(grown: Grown, reference: Reference) -> None:
    after, before = Reference.load(grown.folder).trained_on, reference.trained_on
    assert before.domains == ("domain0", "domain1")
    assert after.domains == ("domain0", "domain1", "a new one", "domain2")
    assert after.n_cells == grown.adata.n_obs
    one, other = after.preprocessor.to_plain(), before.preprocessor.to_plain()
    for name in ("features", "expressed", "total_features", "target_sum", "scaling", "min_features", "fractional"):
        assert one[name] == other[name]
    assert torch.equal(one["mean"], other["mean"])
    assert torch.equal(one["maximum"][:2], other["maximum"])
    # With global scaling, the maxima stay those of the old cells.
    assert torch.equal(one["maximum"].max(0).values, other["maximum"].max(0).values)


def test_old_cells_have_exactly_the_inputs_of_their_training(grown: Grown, trained: Any, reference: Reference) -> None:
    exported, n_old = trained.exported, reference.cells.n_obs
    adata = ad.read_h5ad(grown.folder / "adata.h5ad")
    assert list(adata.var_names) == list(exported.var_names)
    np.testing.assert_array_equal(adata.X[:n_old].toarray(), exported.X.toarray())
    np.testing.assert_array_equal(adata.raw.X[:n_old].toarray(), exported.raw.X.toarray())


def test_new_cells_have_the_inputs_of_a_projection(grown: Grown, trained: Any, reference: Reference) -> None:
    expected = reference.project(keep_rich_cells(grown, trained), repeat=True)
    found = ad.read_h5ad(grown.folder / "adata.h5ad")[reference.cells.n_obs :]
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(found.raw.X.toarray(), expected.raw.X.toarray())


def test_training_starts_from_the_old_weights(grown: Grown, trained: Any) -> None:
    before = read_weights(trained.folder)
    started = grown.start.weights
    assert started.keys() == before.keys()
    for name, value in before.items():
        per_domain = name.startswith("net.output_norm.")
        assert started[name].shape[0] == (4 if per_domain else value.shape[0])
        assert torch.equal(started[name][: len(value)], value), name
    after = read_weights(grown.folder)
    assert not torch.equal(after["net.heads.weight"], before["net.heads.weight"])


def test_new_domains_start_from_the_statistics_of_their_cells(grown: Grown, trained: Any, reference: Reference) -> None:
    before = {name.removeprefix("net."): value.double().numpy() for name, value in read_weights(trained.folder).items()}
    projected = reference.project(keep_rich_cells(grown, trained), repeat=True)
    for code, domain in ((2, "a new one"), (3, "domain2")):
        own = projected[projected.obs["domain"] == domain]
        decoded = own.obsm["latent"].astype(np.float64) @ before["output_weight"]
        mean = np.clip(own.X.toarray().astype(np.float64).mean(0), 1e-4, 1 - 1e-4)
        expected = {
            "running_mean": decoded.mean(0),
            "running_var": decoded.var(0, ddof=1),
            "weight": before["output_norm.weight"].mean(0),
            "bias": np.log(mean / (1 - mean)),
        }
        assert own.n_obs > 40
        for name, value in expected.items():
            np.testing.assert_allclose(grown.start.weights[f"net.output_norm.{name}"][code], value, rtol=1e-3, atol=1e-4)


def test_a_new_domain_may_have_a_single_cell(reference: Reference) -> None:
    before = reference.trained_on
    preprocessor = before.preprocessor
    module = ScalexModule()
    more = {"domains": (*before.domains, "single"), "maximum": np.vstack([preprocessor.maximum, preprocessor.maximum[:1]])}
    module.set_trained_on(TrainedOn(type(preprocessor)(**(vars(preprocessor) | more)), before.n_cells + 1, "0"))
    module.start_from(reference.module, sparse.csr_matrix(np.full((1, 200), 0.5, np.float32)), np.array([2]))
    norm = module.vae.output_norm
    assert all(torch.isfinite(value).all() for value in norm.state_dict().values())
    torch.testing.assert_close(norm.running_var[2], reference.module.vae.output_norm.running_var.mean(0))
    torch.testing.assert_close(norm.bias[2].detach(), torch.zeros(200))


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_the_encoder_has_its_own_learning_rate(reference: Reference, trained: Any, tmp_path: Path, schedule: Any) -> None:
    module = ScalexModule(lr=1e-3, schedule=schedule, max_steps=20)
    _, start = grow_to(tmp_path, reference, trained.query, module, encoder_lr=0.25, allowed_fall=2)
    assert start.n_groups == 2
    # The schedule one_cycle starts at a 25th of the highest rate.
    lr = 1e-3 if schedule == "constant" else 1e-3 / 25
    encoder = {name for name in start.rate_of if name.startswith(("net.hidden", "net.heads"))}
    assert len(encoder) == 5
    for name, rate in start.rate_of.items():
        assert rate == pytest.approx(lr * (0.25 if name in encoder else 1)), name
    assert Reference.load(tmp_path).module.hparams["encoder_lr"] == 0.25


def test_a_slower_encoder_moves_the_old_cells_less(reference: Reference, trained: Any, tmp_path: Path) -> None:
    moved = {}
    for encoder_lr in (1e-6, 1.0):
        folder = tmp_path / str(encoder_lr)
        grow_to(folder, reference, trained.query, encoder_lr=encoder_lr, allowed_fall=2)
        moved[encoder_lr] = json.loads((folder / "growth.json").read_text())["moved"]["median"]
    assert moved[1e-6] < moved[1.0]


def test_growth_json_holds_the_scores_and_movement_of_the_old_cells(grown: Grown, reference: Reference) -> None:
    growth = json.loads((grown.folder / "growth.json").read_text())
    n_old = reference.cells.n_obs
    assert (growth["n_old"], growth["n_new"]) == (n_old, grown.adata.n_obs - n_old)
    was, now = reference.latent.astype(np.float64), grown.adata.obsm["latent"][:n_old].astype(np.float64)
    own = np.sqrt(((was[:, None] - was[None]) ** 2).sum(2))
    np.fill_diagonal(own, np.inf)
    moved = np.linalg.norm(now - was, axis=1) / np.median(np.sort(own, axis=1)[:, :15].mean(1))
    assert growth["moved"] == {
        "median": pytest.approx(np.median(moved), rel=1e-4),
        "quantile_0.9": pytest.approx(np.quantile(moved, 0.9), rel=1e-4),
    }
    obs = reference.cells.obs
    assert list(growth["moved_by_type"].values()) == sorted(growth["moved_by_type"].values(), reverse=True)
    for name, median in growth["moved_by_type"].items():
        assert median == pytest.approx(np.median(moved[(obs["cell_type"] == name).to_numpy()]), rel=1e-4)
    assert growth["moved_by_type"].keys() == set(obs["cell_type"].unique())
    for name, latent in (("scores_before", was), ("scores_after", now)):
        by_hand = scores(
            latent.astype(np.float32),
            domain=pd.Categorical(obs["domain"]),
            cluster=pd.Categorical(obs["leiden"]),
            label=obs["cell_type"].values,
        )
        # The other scores depend on the clusters, which are found again.
        assert growth[name]["entropy_mixing"] == pytest.approx(by_hand["entropy_mixing"], abs=1e-6)
        assert growth[name]["silhouette"] == pytest.approx(by_hand["silhouette"], abs=1e-6)
        assert {"ari", "nmi", "kept", "wrong", "total"} <= growth[name].keys()
    assert (growth["allowed_fall"], growth["accepted"]) == (2, True)


def test_the_report_says_how_far_the_old_cells_moved(grown: Grown) -> None:
    write_training_report(grown.folder, grown.adata, label_key="cell_type", parameters={})
    page = (grown.folder / "report.html").read_text()
    growth = json.loads((grown.folder / "growth.json").read_text())
    assert f"Half of the old cells moved by less than {growth['moved']['median']:.2f}" in page
    before, after = growth["scores_before"]["total"], growth["scores_after"]["total"]
    cells = "".join(f'<td class="number">{value:.3f}</td>' for value in (before, after, after - before))
    assert f"<td>total</td>{cells}" in page
    for name, median in growth["moved_by_type"].items():
        assert f'<td>{name}</td><td class="number">{median:.3f}</td>' in page


def test_an_accepted_run_is_the_next_version(grown: Grown, reference: Reference) -> None:
    second = Reference.load(grown.folder)
    assert [(v["folder"], v["action"], v["n_cells"]) for v in second.lineage] == [
        ("run", "trained", reference.cells.n_obs),
        ("second", "trained on", grown.adata.n_obs),
    ]
    np.testing.assert_array_equal(second.latent, grown.adata.obsm["latent"])
    projected = second.project(grown.query, repeat=True, impute="a new one")
    both = projected.obs_names.intersection(grown.adata.obs_names)
    assert len(both) > 100
    np.testing.assert_array_equal(projected[both].obsm["latent"], grown.adata[both].obsm["latent"])


def test_a_run_that_harms_the_old_cells_does_not_replace_the_reference(
    reference: Reference, trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_files(trained.folder)
    totals = iter([0.9, 0.5])
    monkeypatch.setattr("scalex.training.growth._compute_scores", lambda *_: {"total": next(totals)})
    grow_to(tmp_path, reference, trained.query, allowed_fall=0.3)
    assert "The old cells' score fell by" in caplog.text
    assert "this run does not replace the reference. Lower model.lr or growth.encoder_lr, or allow more." in caplog.text
    assert json.loads((tmp_path / "growth.json").read_text())["accepted"] is False
    assert not (tmp_path / "lineage.json").exists()
    with pytest.raises(ValueError, match=r"is not a reference: it is a continued training that did not finish, or that lowered the scores"):
        Reference.load(tmp_path)
    assert hash_files(trained.folder) == before


def test_the_log_reports_cells_domains_and_movement(
    reference: Reference, trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    grow_to(tmp_path, reference, trained.query, allowed_fall=2)
    assert f"Continues from {trained.folder} with its {reference.cells.n_obs} cells and " in caplog.text
    assert "new domains: domain2" in caplog.text
    assert f"Keeps new cells with >= {trained.min_features} features (min_features): " in caplog.text
    assert "The old cells moved by " in caplog.text


def test_cells_of_known_domains_add_no_domain(reference: Reference, trained: Any, tmp_path: Path) -> None:
    query = trained.query.copy()
    query.obs["batch"] = "domain0"
    grow_to(tmp_path, reference, query, allowed_fall=2)
    assert Reference.load(tmp_path).trained_on.domains == ("domain0", "domain1")


def test_cells_whose_domain_nothing_names_add_one(trained: Any, tmp_path: Path) -> None:
    cells, query = trained.cells.copy(), trained.query.copy()
    del cells.obs["batch"], query.obs["batch"]
    scalex.SCALEX(cells, min_features=trained.min_features, n_top_features=100, max_iteration=3, ignore_umap=True, outdir=tmp_path / "one")
    reference = Reference.load(tmp_path / "one")
    module = ScalexModule(**{name: reference.module.hparams[name] for name in ("n_latent", "n_hidden")})
    grow_to(tmp_path / "two", reference, query, module=module, allowed_fall=2)
    assert Reference.load(tmp_path / "two").trained_on.domains == ("all", "all-2")


def test_a_model_of_another_size_is_an_error(reference: Reference, trained: Any, tmp_path: Path) -> None:
    for other in ({"n_hidden": 64}, {"n_latent": 8}, {"likelihood": "negative_binomial"}):
        has = {"n_latent": 10, "n_hidden": 1024, "likelihood": "bernoulli"}
        asked, settings = (", ".join(f"{name}={value}" for name, value in plan.items()) for plan in (has | other, has))
        message = f"The reference has {settings}, but the training asks for {asked}: use model.n_latent=10 model.n_hidden=1024"
        with pytest.raises(ValueError, match=message):
            grow_to(tmp_path, reference, trained.query, ScalexModule(**other))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_start_from_another_is_an_error(reference: Reference, trained: Any, tmp_path: Path) -> None:
    class Other(ScalexModule):
        check_start = Model.check_start

    with pytest.raises(ValueError, match="Other cannot start from a trained model: train it on the old cells and the new ones together"):
        grow_to(tmp_path, reference, trained.query, Other(n_hidden=1024))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_expression_is_an_error_that_names_the_folder_with_it(
    reference: Reference, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "projected").mkdir()
    project_to(tmp_path / "projected", reference, AnnDataSource(path=trained.query[:30].copy()), append=True)
    without = Reference.load(tmp_path / "projected")
    # The error comes before the new cells are read.
    monkeypatch.setattr("scalex.training.growth.open_query", lambda *_: pytest.fail("read"))
    with pytest.raises(
        ValueError, match=r"holds no expression, since cells were added to it by projection\. Start from the .* trained \(run\)"
    ):
        grow_to(tmp_path / "grown", without, trained.query)


def test_a_reference_of_cells_in_files_grows_only_with_exported_expression(trained: Any, tmp_path: Path) -> None:
    trained.cells.write_h5ad(tmp_path / "cells.h5ad")
    source = AnnDataSource(path=tmp_path / "cells.h5ad", batch_key="batch", backed=True)

    def train(folder: Path, expression: bool | None) -> Reference:
        callbacks: list[Callback] = [Checkpoint(folder), LatentExport(folder, expression=expression)]
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_steps=4, callbacks=callbacks, **quiet)
        fit(source, RnaRecipe(min_features=0, n_top_features=50), ScalexModule(n_hidden=1024), trainer)
        return Reference.load(folder)

    with pytest.raises(ValueError, match=r"its cells stayed in their files .* again with callbacks.latent_export.expression=true"):
        grow_to(tmp_path / "grown", train(tmp_path / "without", None), trained.query)
    adata, _ = grow_to(tmp_path / "grown", train(tmp_path / "with", True), trained.query, allowed_fall=2)
    assert adata.n_obs == trained.cells.n_obs + trained.query.n_obs


def test_a_continued_training_killed_before_its_cells_are_written_can_be_resumed(
    reference: Reference, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    whole, _ = grow_to(tmp_path / "whole", reference, trained.query, allowed_fall=2)
    with monkeypatch.context() as patch:
        patch.setattr(LatentExport, "_write", kill)
        with pytest.raises(KeyboardInterrupt):
            grow_to(folder, reference, trained.query, allowed_fall=2)
    assert json.loads((folder / "growth.json").read_text())["accepted"]
    assert not (folder / "adata.h5ad").exists()
    with pytest.raises(FileNotFoundError, match=r"is not a reference: it lacks adata\.h5ad"):
        Reference.load(folder)
    adata, _ = grow_to(folder, reference, trained.query, allowed_fall=2, resume_from=folder / "checkpoint" / "last.ckpt")
    np.testing.assert_array_equal(adata.obsm["latent"], whole.obsm["latent"])
    np.testing.assert_array_equal(Reference.load(folder).latent, whole.obsm["latent"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q[:, :60].copy(), "at least 30% are needed"),
        (lambda q: AnnData(sparse.csr_matrix(q.X).log1p(), q.obs, q.var), "The query's values look normalized"),
        (lambda q: AnnData(q.X.multiply(np.arange(q.n_vars) < 100).tocsr(), q.obs, q.var), "No new cell has the .* detected features"),
    ],
)
def test_new_cells_that_do_not_fit_are_an_error(
    reference: Reference, trained: Any, tmp_path: Path, change: Callable[[AnnData], AnnData], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        grow_to(tmp_path, reference, change(trained.query))
    assert list(tmp_path.iterdir()) == []


def test_expression_of_another_model_is_an_error(trained: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
    adata = ad.read_h5ad(folder / "adata.h5ad")
    adata.raw = adata.raw[:, ::-1].to_adata() if hasattr(adata.raw[:, ::-1], "to_adata") else adata.raw.to_adata()[:, ::-1]
    adata.write_h5ad(folder / "adata.h5ad")
    with pytest.raises(ValueError, match=r"The features of raw in .*adata\.h5ad are not those of the model in the same folder"):
        grow_to(tmp_path / "grown", Reference.load(folder), trained.query)
