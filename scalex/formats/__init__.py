"""Reading of files of cells, each format by its own library."""

from scalex.formats.read import READERS, ReadOptions, read_cells
from scalex.formats.sources import find_sources, name_sample, name_source, split_h5mu_path

__all__ = ["READERS", "ReadOptions", "find_sources", "name_sample", "name_source", "read_cells", "split_h5mu_path"]
