"""The commands: from a configuration of Hydra to plain parts. The only room that imports hydra or omegaconf."""
