"""Labels of a reference passed on to new cells, with a probability and the right to say that none of them fits."""

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

__all__ = ["UNKNOWN", "LabelTransfer", "has_label"]

UNKNOWN = "unknown"
# More reference cells do not improve means and covariances. A random sample is taken.
MAX_CELLS = 100_000
# Cells of another domain lie farther from the means than the reference's. Their log-likelihoods are multiplied by these factors, for
# latents alone, and for latents and components of the inputs (chosen on the sets of benchmarks/label_transfer.py).
WEIGHTS_OF_LATENTS = (1 / 2,)
WEIGHTS_OF_BOTH = (1 / 8, 1 / 12)
# Components that separate types. The later ones serve to find unknown types alone.
N_COMPONENTS = 50
# Share of the reference's cells within the distance of 1.
QUANTILE = 0.95
# Fewest cells for a border from the data set itself.
MIN_CELLS = 100
# Robust standard deviations above the median from which a cell is called unknown.
N_MADS = 2.5
# Bounds of the scale of log-likelihoods, and largest number of groups of domains that are left out in turn.
INVERSE_TEMPERATURES = (0.2, 30.0)
MAX_FOLDS = 10
# Share of the common covariance that is replaced by its mean variance.
SHRINKAGE = 0.1


@dataclass(frozen=True, eq=False)
class _View:
    """Types as Gaussians with a common covariance, in coordinates that whiten it: D dimensions, K types."""

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

    def compute_squared_distance(self, x_CD: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared Mahalanobis distance of cells to the mean of each type, (n_cells, n_types)."""
        squared_CK: NDArray[np.float64] = cdist(x_CD @ self.whitening_DD, self.mean_KD, "sqeuclidean")
        return squared_CK

    def compute_log_likelihood(self, squared_CK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log-likelihood up to a constant. The mean of n cells adds 1/n of the variance, so a type of few cells is wider."""
        width_K = 1 + 1 / self.count_K
        log_CK: NDArray[np.float64] = -0.5 * (squared_CK / width_K + self.mean_KD.shape[1] * np.log(width_K))
        return log_CK


@dataclass(frozen=True, eq=False)
class LabelTransfer:
    """Classifier of cells by the types of a reference that was embedded by the same model.

    Each type is a Gaussian in the latents and another one in principal components of the model's inputs. All types share a covariance
    (linear discriminant analysis), so that a type may have a single cell. All types have the same prior, since the query may have another
    composition than the reference. The result for a cell depends on that cell alone, except for the border beyond which its type is called
    unknown: the reference does not show how far cells of a new technology lie from their types. The cost per cell grows with the number of
    types and not with the reference's cells.

    Attributes
    ----------
    types
        (n_types,) names.

    References
    ----------
    Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2nd ed. (2009), section 4.3; the distance to the nearest type
    as evidence of an unknown one: Lee et al., NeurIPS 31 (2018).
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
        """Fit the types of a reference.

        Parameters
        ----------
        latent
            (n_cells, n_latent) latents, or another representation.
        label
            (n_cells,) type of each cell. Cells without one, or called "unknown", are left out.
        components
            (n_cells, n_components) principal components of the model's inputs (`scalex.reference.input_pca`). Without them, types that are
            not in the reference are hardly recognized, and rare types are missed more often.
        domain
            (n_cells,) domain of each cell. With several domains, each is left out in turn to calibrate probabilities in a new domain: the
            scale of the log-likelihoods maximizes those of the true types. Otherwise they are not scaled.
        seed
            Seed of the sample of more than 100,000 cells.

        Raises
        ------
        ValueError
            If lengths differ, values are not finite, no cell has a label, or no type has two cells.
        """
        spaces = _check_spaces(latent, components)
        if len(label) != len(latent):
            raise ValueError(f"There are {len(label)} labels for {len(latent)} cells: give one for each cell, which may be missing.")
        rows = np.flatnonzero(has_label(label))
        if len(rows) == 0:
            raise ValueError(f"None of the {len(latent)} cells of the reference has a label: choose another column with label=.")
        if len(rows) > MAX_CELLS:
            rows = _sample(np.asarray(label.codes)[rows], rows, np.random.default_rng(seed))
        known = label[rows].remove_unused_categories()
        types, code = known.categories.astype(str), known.codes.astype(np.int64)
        if len(types) == len(rows):
            raise ValueError(f"Each of the {len(types)} types has one cell: at least one type must have two or more.")
        spaces = _make_views([space[rows] for space in spaces])
        views = tuple(_View.fit(space, code) for space in spaces)
        # The mean of a type without the cell itself would be farther away by this factor.
        count = views[0].count_K[code]
        distances = [view.compute_squared_distance(space)[np.arange(len(rows)), code] for view, space in zip(views, spaces, strict=True)]
        own = (distances[0] + distances[-1] * (len(distances) > 1)) * np.square(count / np.maximum(count - 1, 1))
        limit = np.quantile(own[count > 1], QUANTILE)
        inverse_temperature = (
            1.0 if domain is None else _fit_inverse_temperature(spaces[:2], code, np.asarray(domain.codes)[rows] % MAX_FOLDS)
        )
        return cls(types, views, max(float(limit), np.finfo(np.float64).tiny), inverse_temperature)

    def predict(self, latent: NDArray[np.floating], components: NDArray[np.floating] | None = None) -> pd.DataFrame:
        """Predict the types of the cells of a data set.

        Parameters
        ----------
        latent, components
            As in `compute_evidence`.

        Returns
        -------
        DataFrame
            One row per cell: "label", categorical, the type, or "unknown" if the column "unknown" is above the border; and the columns of
            `compute_evidence`.

        Raises
        ------
        ValueError
            If dimensions differ from those in `fit`, or values are not finite.
        """
        predicted = self.compute_evidence(latent, components)
        label = self.choose_labels(predicted["best"].cat.codes.to_numpy(), predicted["unknown"].to_numpy())
        predicted.insert(0, "label", label)
        return predicted

    def compute_evidence(self, latent: NDArray[np.floating], components: NDArray[np.floating] | None = None) -> pd.DataFrame:
        """Return what each cell shows by itself.

        Parameters
        ----------
        latent, components
            (n_cells, n_latent) and (n_cells, n_components), as in `fit`.

        Returns
        -------
        DataFrame
            One row per cell: "best", categorical, the most probable type; "probability", in (0, 1], of `best` if the cell has one of the
            types; "runner_up", categorical, the next type, missing if there is only one; "unknown", >= 0, the squared distance to `best`,
            which is at most 1 for 95 % of the reference's cells and their own type.
        """
        spaces = _check_spaces(latent, components)
        given, expected = ([part.shape[1] for part in spaces], [len(view.whitening_DD) for view in self._views[:1] + self._views[2:]])
        if given != expected:
            raise ValueError(
                f"The cells have {_name_dimensions(given)}, but the reference has {_name_dimensions(expected)}: give the same."
            )
        squared = [view.compute_squared_distance(space) for view, space in zip(self._views, _make_views(spaces), strict=True)]
        score = _score(self._views[:2], squared[:2])
        probability = softmax(self._inverse_temperature * score, axis=1)
        order, cell = np.argsort(-score, axis=1, kind="stable"), np.arange(len(score))
        best = order[:, 0]
        runner_up = order[:, 1] if len(self.types) > 1 else np.full(len(best), -1)
        return pd.DataFrame(
            {
                "best": pd.Categorical.from_codes(best, self.types),
                "probability": probability[cell, best],
                "runner_up": pd.Categorical.from_codes(runner_up, self.types),
                "unknown": (squared[0] + squared[-1] * (len(squared) > 1))[cell, best] / self._limit,
            }
        )

    def choose_labels(self, best: NDArray[np.integer], unknown: NDArray[np.floating]) -> pd.Categorical:
        """Return the label of each cell of a data set, from "best" (codes) and "unknown" of `compute_evidence`, (n_cells,) each."""
        code = np.where(unknown > self.compute_border(unknown), len(self.types), best)
        return pd.Categorical.from_codes(code, [*self.types, UNKNOWN])

    def compute_border(self, unknown: NDArray[np.floating]) -> float:
        """Return the value of "unknown" above which the cells of a data set are called unknown, at most 1.

        It is the median of the data set plus 2.5 robust standard deviations, and 1 for fewer than 100 cells.
        """
        if len(unknown) < MIN_CELLS:
            return 1.0
        median = np.median(unknown)
        # 1.4826: the median absolute deviation of a normal distribution is 1 / 1.4826 of its standard deviation.
        return float(min(1.0, median + N_MADS * 1.4826 * np.median(np.abs(unknown - median))))


def _score(views: Sequence[_View], squared: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the weighted log-likelihood of each type, (n_cells, n_types), from the squared distances in each view."""
    weights = WEIGHTS_OF_BOTH if len(views) > 1 else WEIGHTS_OF_LATENTS
    parts = [weight * view.compute_log_likelihood(squared_CK) for weight, view, squared_CK in zip(weights, views, squared, strict=True)]
    score: NDArray[np.float64] = np.sum(parts, axis=0)
    return score


def _fit_inverse_temperature(spaces: list[NDArray[np.float64]], code: NDArray[np.int64], fold: NDArray[np.integer]) -> float:
    """Return the scale of log-likelihoods that makes the true types of cells of left-out domains most probable; 1 for a single domain.

    It is an inverse temperature (Guo et al., ICML 2017), fitted to domains that the classifier has not seen.
    """
    held_out = []
    for one in np.unique(fold):
        types, known = np.unique(code[fold != one], return_inverse=True)
        own = (fold == one) & np.isin(code, types)
        if len(types) < 2 or len(types) == len(known) or not own.any():
            continue
        views = [_View.fit(space[fold != one], known) for space in spaces]
        score = _score(views, [view.compute_squared_distance(space[own]) for view, space in zip(views, spaces, strict=True)])
        held_out.append((score, np.searchsorted(types, code[own])))
    if not held_out:
        return 1.0

    def compute_loss(log_factor: float) -> float:
        factor = np.exp(log_factor)
        return -sum(float(log_softmax(factor * score, axis=1)[np.arange(len(true)), true].sum()) for score, true in held_out)

    return float(np.exp(minimize_scalar(compute_loss, bounds=np.log(INVERSE_TEMPERATURES), method="bounded").x))


def has_label(label: pd.Categorical) -> NDArray[np.bool_]:
    """Return whether each cell has a type, (n_cells,)."""
    return np.asarray(~label.isna() & (label != UNKNOWN))


def _make_views(spaces: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return the coordinates of the views: latents alone, or latents, the components that separate types, and all components.

    The first two give the types. The first and the last give the distance.
    """
    return spaces if len(spaces) == 1 else [spaces[0], spaces[1][:, :N_COMPONENTS], spaces[1]]


def _check_spaces(latent: NDArray[np.floating], components: NDArray[np.floating] | None) -> list[NDArray[np.float64]]:
    spaces = []
    for name, given in (("latent", latent), ("components", components)):
        if given is None:
            continue
        space = np.asarray(given, np.float64)
        if space.ndim != 2 or len(space) != len(latent):
            raise ValueError(f"{name} has the shape {space.shape}: it must be cells x dimensions, with one row for each cell of latent.")
        if bad := int((~np.isfinite(space).all(1)).sum()):
            raise ValueError(f"{name} is not finite in {bad} of {len(space)} cells: embed them again, or leave those cells out.")
        spaces.append(space)
    return spaces


def _name_dimensions(numbers: list[int]) -> str:
    return " and ".join(f"{number} {name}" for number, name in zip(numbers, ("latent dimensions", "components"), strict=False))


def _sample(code: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most `MAX_CELLS` of the rows. Rare types are kept whole; the others give equally many cells."""
    order = rng.permutation(len(rows))
    rank = pd.Series(code[order]).groupby(code[order]).cumcount().to_numpy()
    return np.sort(rows[order[np.argsort(rank, kind="stable")[:MAX_CELLS]]])
