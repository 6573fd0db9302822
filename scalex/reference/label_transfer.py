"""Transfer of a reference's labels to new cells, with a probability and with "unknown" for cells of other types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax

from scalex.reference.novelty import find_unknown

__all__ = ["UNKNOWN", "LabelTransfer", "has_label"]

UNKNOWN = "unknown"
# More reference cells do not improve means and covariances. Of a larger reference, a random sample is used.
MAX_CELLS = 100_000
# Cells of another domain lie farther from the means than those of the reference. These factors reduce their log-likelihoods, for the
# latents alone, and for latents and components of the inputs. They were chosen on the data sets of benchmarks/label_transfer.py.
LATENT_WEIGHTS = (1 / 2,)
COMBINED_WEIGHTS = (1 / 8, 1 / 12)
# Components that distinguish the types. The later ones only distinguish unknown cells.
N_COMPONENTS = 50
# Share of the reference's cells at a distance of at most 1.
QUANTILE = 0.95
# Smallest and largest factor of log-likelihoods.
INVERSE_TEMPERATURES = (0.2, 30.0)
# Groups of domains that are left out in turn.
MAX_FOLDS = 10
# Few domains hardly show how far another one will differ. The factor is that of the domains and of this number with a factor of 1.
N_PRIOR_DOMAINS = 3
# Share of the normalization of a type of few cells. With all of it, new cells of such a type are taken for cells of larger ones.
NORMALIZATION = 0.5
# Share of the common covariance that is replaced by its mean variance in all directions.
SHRINKAGE = 0.1


@dataclass(frozen=True, eq=False)
class _View:
    """Types as Gaussians with one covariance, in coordinates in which the covariance is the identity.

    Dimension letters: C cells, D dimensions, K types.
    """

    whitening_DD: NDArray[np.float64]
    mean_KD: NDArray[np.float64]
    count_K: NDArray[np.int64]

    @classmethod
    def fit(cls, x_CD: NDArray[np.float64], code_C: NDArray[np.int64]) -> Self:
        count_K = np.bincount(code_C)
        mean_KD = np.stack([x_CD[code_C == code].mean(0) for code in range(len(count_K))])
        within_CD = x_CD - mean_KD[code_C]
        covariance_DD = within_CD.T @ within_CD / max(len(x_CD) - len(count_K), 1)
        average = np.trace(covariance_DD) / len(covariance_DD)
        covariance_DD = (1 - SHRINKAGE) * covariance_DD + SHRINKAGE * average * np.eye(len(covariance_DD))
        variance_D, axes_DD = np.linalg.eigh(covariance_DD)
        whitening_DD = axes_DD / np.sqrt(np.maximum(variance_D, np.finfo(np.float64).tiny))
        return cls(whitening_DD, mean_KD @ whitening_DD, count_K)

    def squared_distance(self, x_CD: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared Mahalanobis distance of cells to the mean of each type, (n_cells, n_types)."""
        squared_CK: NDArray[np.float64] = cdist(x_CD @ self.whitening_DD, self.mean_KD, "sqeuclidean")
        return squared_CK

    def log_likelihood(self, squared_CK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log-likelihood of each type up to a constant, (n_cells, n_types).

        The mean of n cells has 1 / n of the variance of one cell, so a type of few cells is wider.
        """
        width_K = 1 + 1 / self.count_K
        log_CK: NDArray[np.float64] = -0.5 * (squared_CK / width_K + NORMALIZATION * self.mean_KD.shape[1] * np.log(width_K))
        return log_CK


@dataclass(frozen=True, eq=False)
class LabelTransfer:
    """Classifier of new cells by the types of a reference. The same model must have embedded both.

    Each type is a Gaussian in the latents, and another one in principal components of the model's inputs. All types share one covariance,
    which a type of a single cell takes from the others (linear discriminant analysis). All types have the same prior probability, because
    the composition of the query may differ from that of the reference. The result for a cell depends on that cell alone, except for
    whether it is unknown (`find_unknown`). The cost per cell depends on the number of types, not on the number of reference cells.

    Attributes
    ----------
    types
        (n_types,) names of the types.

    References
    ----------
    Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2nd ed. (2009), section 4.3. The distance to the nearest type
    as evidence of an unknown type: Lee et al., NeurIPS 31 (2018).
    """

    types: pd.Index
    _views: tuple[_View, ...]
    _limit: float
    _inverse_temperature: float

    @classmethod
    def fit(
        cls,
        latent: NDArray[np.floating],
        label: pd.Categorical,
        components: NDArray[np.floating] | None = None,
        *,
        domain: pd.Categorical | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit the classifier to the cells of a reference.

        Parameters
        ----------
        latent
            (n_cells, n_latent) latents, or any other representation.
        label
            (n_cells,) type of each cell. Cells without a type, or with the type "unknown", are not used.
        components
            (n_cells, n_components) coordinates in principal components of the model's inputs (`scalex.reference.input_pca`). Without them,
            cells of types that the reference does not have are hardly recognised, and rare types are missed more often.
        domain
            (n_cells,) domain of each cell. If there are several domains, each is left out in turn to calibrate the probabilities for a new
            domain: the log-likelihoods are scaled so that those of the true types are largest, the less the fewer domains there are.
            Otherwise they are not scaled.
        seed
            Seed of the sample of cells, if there are more than 100,000.

        Raises
        ------
        ValueError
            If lengths differ, values are not finite, no cell has a label, or no type has two cells.
        """
        spaces = _check_spaces(latent, components)
        if len(label) != len(latent):
            raise ValueError(f"There are {len(label)} labels for {len(latent)} cells: give one for each cell, missing if unknown.")
        rows = np.flatnonzero(has_label(label))
        if len(rows) == 0:
            raise ValueError(f"None of the {len(latent)} cells of the reference has a label: choose another column with label=.")
        if len(rows) > MAX_CELLS:
            rows = _sample(np.asarray(label.codes)[rows], rows, np.random.default_rng(seed))
        known = label[rows].remove_unused_categories()
        types, code = known.categories.astype(str), known.codes.astype(np.int64)
        if len(types) == len(rows):
            raise ValueError(f"Each of the {len(types)} types has one cell: at least one type needs two, to estimate the spread of types.")
        spaces = _split_views([space[rows] for space in spaces])
        views = tuple(_View.fit(space, code) for space in spaces)
        # The factor corrects for the cell's own share in the mean of its type.
        count = views[0].count_K[code]
        distances = [view.squared_distance(space)[np.arange(len(rows)), code] for view, space in zip(views, spaces, strict=True)]
        own = (distances[0] + distances[-1] * (len(distances) > 1)) * np.square(count / np.maximum(count - 1, 1))
        limit = np.quantile(own[count > 1], QUANTILE)
        inverse_temperature = (
            1.0 if domain is None else _fit_inverse_temperature(spaces[:2], code, np.asarray(domain.codes)[rows] % MAX_FOLDS)
        )
        return cls(types, views, max(float(limit), np.finfo(np.float64).tiny), inverse_temperature)

    def predict(
        self, latent: NDArray[np.floating], components: NDArray[np.floating] | None = None, *, domain: NDArray[np.integer] | None = None
    ) -> pd.DataFrame:
        """Predict the types of the cells of a data set.

        Parameters
        ----------
        latent, components
            As in `compute_evidence`.
        domain
            (n_cells,) codes of domains, in each of which unknown cells are found. None: all cells are of one domain.

        Returns
        -------
        DataFrame
            One row per cell: "label", categorical, which is "best", or "unknown"; and the columns of `compute_evidence`.

        Raises
        ------
        ValueError
            If the dimensions differ from those in `fit`, or values are not finite.
        """
        table = self.compute_evidence(latent, components)
        table.insert(0, "label", self.assign_labels(table["best"].cat.codes.to_numpy(), table["unknown"].to_numpy(), latent, domain))
        return table

    def compute_evidence(
        self,
        latent: NDArray[np.floating],
        components: NDArray[np.floating] | None = None,
        *,
        encoded: NDArray[np.floating] | None = None,
    ) -> pd.DataFrame:
        """Compute the evidence for the type of each cell, independently of the other cells.

        Parameters
        ----------
        latent, components
            (n_cells, n_latent) and (n_cells, n_components), as in `fit`.
        encoded
            (n_cells, n_latent) latents before an adapter moved the cells. An adapter may move cells of a type that the reference lacks to
            cells of another type. So the distance is that of these latents. None: no adapter moved the cells.

        Returns
        -------
        DataFrame
            One row per cell: "best", categorical, the most probable type; "probability" of "best" in (0, 1], assuming that the cell has one
            of the types; "runner_up", categorical, the second most probable type, missing if there is only one type; "unknown", >= 0, the
            squared distance to "best", where 1 is the 95 % quantile of the squared distances of the reference's cells to their own types.

        Raises
        ------
        ValueError
            If the dimensions differ from those in `fit`, or values are not finite.
        """
        spaces = _check_spaces(latent, components)
        given, needed = ([part.shape[1] for part in spaces], [len(view.whitening_DD) for view in self._views[:1] + self._views[2:]])
        if given != needed:
            given_text, needed_text = _format_dimensions(given), _format_dimensions(needed)
            raise ValueError(f"The cells have {given_text}, but those of the reference had {needed_text}: give the same.")
        squared = [view.squared_distance(space) for view, space in zip(self._views, _split_views(spaces), strict=True)]
        distance_CK = squared[0] if encoded is None else self._views[0].squared_distance(*_check_spaces(encoded, None))
        if len(squared) > 1:
            distance_CK = distance_CK + squared[-1]
        score = _compute_score(self._views[:2], squared[:2])
        probability = softmax(self._inverse_temperature * score, axis=1)
        order, cell = np.argsort(-score, axis=1, kind="stable"), np.arange(len(score))
        best = order[:, 0]
        runner_up = order[:, 1] if len(self.types) > 1 else np.full(len(best), -1)
        return pd.DataFrame(
            {
                "best": pd.Categorical.from_codes(best, self.types),
                "probability": probability[cell, best],
                "runner_up": pd.Categorical.from_codes(runner_up, self.types),
                "unknown": distance_CK[cell, best] / self._limit,
            }
        )

    def assign_labels(
        self,
        best: NDArray[np.integer],
        unknown: NDArray[np.floating],
        latent: NDArray[np.floating],
        domain: NDArray[np.integer] | None = None,
    ) -> pd.Categorical:
        """Return the labels of the cells of a data set.

        Parameters
        ----------
        best, unknown
            (n_cells,) codes of the column "best", and the column "unknown", of `compute_evidence`.
        latent, domain
            (n_cells, n_latent) and (n_cells,), as in `predict`.
        """
        code = np.where(find_unknown(unknown, latent, domain), len(self.types), best)
        return pd.Categorical.from_codes(code, [*self.types, UNKNOWN])


def _compute_score(views: Sequence[_View], squared: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the weighted log-likelihood of each type, (n_cells, n_types), from the squared distances in each view."""
    weights = COMBINED_WEIGHTS if len(views) > 1 else LATENT_WEIGHTS
    parts = [weight * view.log_likelihood(squared_CK) for weight, view, squared_CK in zip(weights, views, squared, strict=True)]
    score: NDArray[np.float64] = np.sum(parts, axis=0)
    return score


def _fit_inverse_temperature(spaces: list[NDArray[np.float64]], code: NDArray[np.int64], fold: NDArray[np.integer]) -> float:
    """Return the factor of the log-likelihoods that makes the types of left-out cells most probable, or 1 if there is one domain.

    It is a temperature (Guo et al., ICML 2017), fitted to domains that the classifier has not seen. Few domains change it less.
    """
    left_out = []
    for one in np.unique(fold):
        types, known = np.unique(code[fold != one], return_inverse=True)
        own = (fold == one) & np.isin(code, types)
        if len(types) < 2 or len(types) == len(known) or not own.any():
            continue
        views = [_View.fit(space[fold != one], known) for space in spaces]
        score = _compute_score(views, [view.squared_distance(space[own]) for view, space in zip(views, spaces, strict=True)])
        left_out.append((score, np.searchsorted(types, code[own])))
    if not left_out:
        return 1.0

    def cross_entropy(log_factor: float) -> float:
        factor = np.exp(log_factor)
        return -sum(float(log_softmax(factor * score, axis=1)[np.arange(len(true)), true].sum()) for score, true in left_out)

    log_factor = float(minimize_scalar(cross_entropy, bounds=np.log(INVERSE_TEMPERATURES), method="bounded").x)
    return float(np.exp(log_factor * len(left_out) / (len(left_out) + N_PRIOR_DOMAINS)))


def has_label(label: pd.Categorical) -> NDArray[np.bool_]:
    """Return which cells have a type, (n_cells,)."""
    return np.asarray(~label.isna() & (label != UNKNOWN))


def _split_views(spaces: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return the coordinates of each view: latents alone, or latents, the first components and all components.

    The first two views determine the type. The distance is that in the first and the last view.
    """
    return spaces if len(spaces) == 1 else [spaces[0], spaces[1][:, :N_COMPONENTS], spaces[1]]


def _check_spaces(latent: NDArray[np.floating], components: NDArray[np.floating] | None) -> list[NDArray[np.float64]]:
    """Return the coordinates as float64, without those that are None."""
    spaces = []
    for name, given in (("latent", latent), ("components", components)):
        if given is None:
            continue
        space = np.asarray(given, np.float64)
        if space.ndim != 2 or len(space) != len(latent):
            raise ValueError(f"{name} has the shape {space.shape}: it must be cells x dimensions, with one row per cell of latent.")
        if bad := int((~np.isfinite(space).all(1)).sum()):
            raise ValueError(f"{name} is not finite in {bad} of {len(space)} cells: embed these cells again, or remove them.")
        spaces.append(space)
    return spaces


def _format_dimensions(numbers: list[int]) -> str:
    return " and ".join(f"{number} {name}" for number, name in zip(numbers, ("latent dimensions", "components"), strict=False))


def _sample(code: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most `MAX_CELLS` of `rows`: all cells of rare types, and an equal number of each other type."""
    order = rng.permutation(len(rows))
    rank = pd.Series(code[order]).groupby(code[order]).cumcount().to_numpy()
    return np.sort(rows[order[np.argsort(rank, kind="stable")[:MAX_CELLS]]])
