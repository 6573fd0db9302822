"""Files of cells, each format read by the library that owns it."""

from scalex.formats.read import FORMATS, ReadOptions, read_cells
from scalex.formats.sources import find_sources, inside_h5mu, name_of_source

__all__ = ["FORMATS", "ReadOptions", "inside_h5mu", "find_sources", "name_of_source", "read_cells"]
