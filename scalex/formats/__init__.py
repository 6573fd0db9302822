"""Files of cells, each format read by the library that owns it."""

from scalex.formats.located import inside_h5mu, located, name_of_source
from scalex.formats.read import FORMATS, ReadOptions, read_cells

__all__ = ["FORMATS", "ReadOptions", "inside_h5mu", "located", "name_of_source", "read_cells"]
