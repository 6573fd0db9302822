"""Latents of made cells with known domains and types."""

from __future__ import annotations

import numpy as np
import torch


def make_latents(
    counts: dict[tuple[int, int], int], *, seed: int = 0, effect: float = 1.5, n_latent: int = 8
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return latents, domains and types; `counts` are the cells per (domain, type). Domains above 0 are shifted, each type differently."""
    rng = np.random.default_rng(seed)
    n_types = max(kind for _, kind in counts) + 1
    center = np.eye(n_types, n_latent) * 6
    shift = rng.normal(0, 1, n_latent) * effect / np.sqrt(n_latent) * 2
    own_shift = rng.normal(0, 0.3, (n_types, n_latent)) * effect
    domain = np.concatenate([np.full(n, d) for (d, _), n in counts.items()])
    kind = np.concatenate([np.full(n, k) for (_, k), n in counts.items()])
    cells = center[kind] + rng.normal(0, 0.5, (len(kind), n_latent)) + (domain > 0)[:, None] * (shift + own_shift[kind])
    order = rng.permutation(len(cells))
    return torch.from_numpy(cells[order].astype(np.float32)), torch.from_numpy(domain[order]), kind[order]
