"""How long to train, where the number of cells decides."""

from __future__ import annotations

from lightning import Trainer

from scalex.model.base import Model

__all__ = ["limit_steps", "trainer_limits"]

# Lightning's name for no limit.
UNLIMITED = -1


def trainer_limits(max_steps: int | None, max_epochs: int | None) -> dict[str, int | None]:
    """Return the limits as Lightning's trainer takes them: -1 for those that are not known before the cells are read."""
    if max_steps is None:
        return {"max_steps": UNLIMITED, "max_epochs": UNLIMITED if max_epochs is None else max_epochs}
    return {"max_steps": max_steps, "max_epochs": max_epochs}


def limit_steps(trainer: Trainer, module: Model, n_cells: int) -> None:
    """Set the steps of a trainer without a limit to what the model needs for the number of cells."""
    if trainer.max_steps == UNLIMITED:
        trainer.fit_loop.epoch_loop.max_steps = module.count_steps(n_cells)
