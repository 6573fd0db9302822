"""Checks of HDF5 files before they are read: links to other files, cycles, values that were never written, filters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h5py
from h5py import h5d, h5l, h5o, h5z

from scalex.formats.advice import AdvisedError

__all__ = ["ForeignDataError", "check_element", "check_links", "check_tree", "check_written", "find_missing_filter", "load_filters"]

# Smaller arrays take no memory to speak of, even if no value was written.
MIN_BYTES = 1 << 24
# Filters of hdf5plugin, by their registered numbers.
FILTERS = {307: "bzip2", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32017: "sz", 32026: "blosc2"}


class ForeignDataError(AdvisedError):
    """Error of a file that takes data from other files."""


def load_filters() -> None:
    """Make the filters of hdf5plugin known to HDF5, if it is installed."""
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401


def check_links(file: h5py.File) -> None:
    """Check that all data of a file are in it. Links are not followed.

    Raises
    ------
    ForeignDataError
        If a link, an external dataset or a virtual one names another file.
    """
    for name, element, target in _walk(file):
        other = target if element is None else _find_source(element)
        if other is not None:
            raise ForeignDataError(
                f"{file.filename}: {name} takes its data from another file, {other}, and they would get into the results. If you trust "
                "both files, set follow_links=true; otherwise write a file that holds all its data."
            )


def check_element(element: h5py.Group | h5py.Dataset) -> None:
    """Check that an element can be read: `check_tree`, `check_written`, and that its filters are installed.

    Raises
    ------
    ValueError
        If it cannot.
    """
    check_tree(element)
    problem = find_missing_filter(element)
    if problem is not None:
        raise AdvisedError(f"{element.file.filename}: {problem}.")
    check_written(element)


def check_tree(element: h5py.Group | h5py.Dataset) -> None:
    """Check that no group is in itself, nor in two groups.

    Raises
    ------
    ValueError
        If one is. Reading it would not end, or take very long.
    """
    parents = [element] if isinstance(element, h5py.Group) else []
    seen = {_get_address(parent) for parent in parents}
    while parents:
        parent = parents.pop()
        for name in parent:
            child = parent[name]
            if isinstance(child, h5py.Group):
                if _get_address(child) in seen:
                    raise ValueError(f"the group {name} is in several groups, or in itself")
                seen.add(_get_address(child))
                parents.append(child)


def check_written(element: h5py.Group | h5py.Dataset) -> None:
    """Check that large arrays were written, before memory is taken for them.

    Raises
    ------
    ValueError
        If the sizes in the file are not those of values in it.
    """
    for name, dataset in _list_datasets(element):
        n_bytes = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
        layout = dataset.id.get_create_plist().get_layout()
        if n_bytes < MIN_BYTES or dataset.is_virtual or dataset.external:
            continue
        if layout == h5d.CHUNKED:
            n_chunks = math.prod(math.ceil(size / chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
            is_written = dataset.id.get_num_chunks() >= n_chunks
        else:
            is_written = dataset.id.get_storage_size() >= n_bytes
        if not is_written:
            raise ValueError(f"{name} should have {' x '.join(map(str, dataset.shape))} values, which were never written")


def find_missing_filter(element: h5py.Group | h5py.Dataset) -> str | None:
    """Return what to do about the first array that is compressed by a method that is not installed; None if there is none."""
    for name, dataset in _list_datasets(element):
        plan = dataset.id.get_create_plist()
        for code, *_, label in (plan.get_filter(i) for i in range(plan.get_nfilters())):
            if not h5z.filter_avail(code):
                method = FILTERS.get(code) or label.decode(errors="replace") or f"filter {code}"
                return f"{name} is compressed by {method}, which is not installed: pip install hdf5plugin"
    return None


def _walk(group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset | None, str | None]]:
    """Yield each object of a file once with its name, and each link to another file with the name of that."""
    parents, seen = [("", group)], {_get_address(group)}
    while parents:
        prefix, parent = parents.pop()
        for name in parent:
            kind = parent.id.links.get_info(name.encode()).type
            if kind == h5l.TYPE_HARD:
                # Damaged objects cannot be read, either: reading will raise the error if it needs them.
                with suppress(KeyError, OSError, RuntimeError):
                    element = parent[name]
                    if _get_address(element) in seen:
                        continue
                    seen.add(_get_address(element))
                    yield prefix + name, element, None
                    if isinstance(element, h5py.Group):
                        parents.append((f"{prefix}{name}/", element))
            elif kind != h5l.TYPE_SOFT:
                # Links within the file lead to objects that are visited, too.
                is_known = kind == h5l.TYPE_EXTERNAL
                yield prefix + name, None, parent.get(name, getlink=True).filename if is_known else "by a link of a program's own kind"


def _find_source(element: h5py.Group | h5py.Dataset) -> str | None:
    """Return the other file that holds values of a dataset; None if there is none."""
    if not isinstance(element, h5py.Dataset):
        return None
    if element.external:
        return str(element.external[0][0])
    if element.is_virtual:
        return next((str(source.file_name) for source in element.virtual_sources() if source.file_name != "."), None)
    return None


def _list_datasets(element: h5py.Group | h5py.Dataset) -> Iterator[tuple[str, h5py.Dataset]]:
    if isinstance(element, h5py.Dataset):
        yield element.name.strip("/"), element
        return
    for name, member, _ in _walk(element):
        if isinstance(member, h5py.Dataset):
            yield f"{element.name.strip('/')}/{name}".lstrip("/"), member


def _get_address(element: Any) -> tuple[int, int]:
    info = h5o.get_info(element.id)
    return info.fileno, info.addr
