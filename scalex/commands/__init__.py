"""The commands, from a Hydra configuration to plain objects. No other package imports hydra or omegaconf."""
