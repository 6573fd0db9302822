"""The commands, which turn a Hydra configuration into plain objects. Only this package imports hydra and omegaconf."""
