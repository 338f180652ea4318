"""An index on disk: a folder that is complete at any time.

    manifest.json          model version, settings, and the other files' names, sizes and SHA-256
    <save>-graph.usearch   the graph, in usearch's own format
    <save>-vectors.npy     [rows, dim] float16
    <save>-products.arrow  ids, versions, attributes, row by row (Arrow IPC)

Each save writes files with new names and then replaces the manifest, which makes the save valid. The files of the
previous save stay until the next save, so that a reader of them can finish.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from feature_repo.files import sync
from inference.arrays import BoolArray
from inference.errors import ArtifactError
from inference.retrieval.filters import AttributeColumns
from inference.retrieval.graph import HnswSettings
from inference.retrieval.rows import ProductRows

_FORMAT = "sagelift-retrieval-index-1"
_MANIFEST = "manifest.json"
_PARTS = ("graph.usearch", "vectors.npy", "products.arrow")


class Saved(NamedTuple):
    """The state of an index without its graph."""

    model_version: str
    settings: HnswSettings
    position: dict[str, int]  # how far the source is applied, by partition
    removed_nodes: int  # from the graph since it was built
    rows: ProductRows


class _File(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    model_version: str
    dim: int
    products: int  # that can be found
    settings: HnswSettings
    position: dict[str, int]
    removed_nodes: int = msgspec.field(name="taken_out")
    files: dict[str, _File]


def save(folder: Path, capture: Callable[[Path], Saved]) -> None:
    """Write an index. Only one writer at a time.

    Args:
        folder: The folder; created if missing.
        capture: Writes the graph into the given file and returns the rest of the same state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        previous = {file.name for file in _read_manifest(folder).files.values()}
    except ArtifactError:
        previous = set()
    token = secrets.token_hex(8)
    paths = {part: folder / f"{token}-{part}" for part in _PARTS}
    try:
        saved = capture(paths["graph.usearch"])
        np.save(paths["vectors.npy"], saved.rows.vectors[: len(saved.rows)])
        _write_products(paths["products.arrow"], saved.rows)
        manifest = _Manifest(
            format=_FORMAT,
            model_version=saved.model_version,
            dim=saved.rows.vectors.shape[1],
            products=int(saved.rows.held.sum()),
            settings=saved.settings,
            position=saved.position,
            removed_nodes=saved.removed_nodes,
            files={part: _describe(path) for part, path in paths.items()},
        )
        written = folder / f"{token}-{_MANIFEST}"
        written.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        for path in (*paths.values(), written):
            sync(path)
        written.replace(folder / _MANIFEST)
        sync(folder)
    except BaseException:
        for path in folder.glob(f"{token}-*"):
            path.unlink()
        raise
    for path in folder.glob("*-*"):
        if path.name.partition("-")[2] in (*_PARTS, _MANIFEST) and not (
            path.name in previous or path.name.startswith(token)
        ):
            path.unlink(missing_ok=True)


def load(folder: Path, model_version: str, dim: int) -> tuple[Saved, str]:
    """Read and check what `save` wrote.

    Returns:
        The state, and the path of the graph's file.

    Raises:
        ArtifactError: If no index is saved there, or it is truncated, altered, or of another model version or vector
            length.
    """
    manifest = _read_manifest(folder)
    if (manifest.model_version, manifest.dim) != (model_version, dim):
        raise ArtifactError(
            f"the index in {folder} is of model version {manifest.model_version!r} with vectors of length "
            f"{manifest.dim}, must be of version {model_version!r} with length {dim}: rebuild it or name another folder"
        )
    paths = {}
    for part in _PARTS:
        file = manifest.files.get(part)
        path = folder / file.name if file is not None else folder / part
        if file is None or not path.is_file() or _describe(path) != file:
            raise _damaged(folder, f"{path.name} is missing, truncated or altered")
        paths[part] = path
    rows = ProductRows(dim)
    _read_products(paths["products.arrow"], rows)
    rows.vectors = np.load(paths["vectors.npy"])
    if rows.vectors.shape != (len(rows), dim) or int(rows.held.sum()) != manifest.products:
        raise _damaged(folder, "its files do not belong together")
    saved = Saved(manifest.model_version, manifest.settings, manifest.position, manifest.removed_nodes, rows)
    return saved, str(paths["graph.usearch"])


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except FileNotFoundError:
        raise ArtifactError(f"{folder} has no saved index: {_MANIFEST} is missing") from None
    except (OSError, msgspec.DecodeError) as error:
        raise _damaged(folder, f"{_MANIFEST} cannot be read: {error}") from None
    if manifest.format != _FORMAT:
        raise _damaged(folder, f"its format is {manifest.format!r}, not {_FORMAT!r}")
    return manifest


def _damaged(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(f"the index in {folder} cannot be loaded: {why}; rebuild it from the topic or from Feast")


def _write_products(path: Path, rows: ProductRows) -> None:
    import pyarrow as pa

    n, attributes = len(rows), rows.attributes
    currencies, categories = list(attributes.currencies), list(attributes.categories)
    table = pa.table(
        {
            "id": pa.array(rows.ids, pa.string(), mask=_mask(rows.free, n)),
            "version": rows.versions[:n],
            "held": rows.held[:n],
            "attributes_version": attributes.version[:n],
            "amount_minor": attributes.amount[:n],
            "currency": _named(attributes.currency[:n], currencies),
            "category": _named(attributes.category[:n], categories),
            "in_stock": attributes.in_stock[:n],
        }
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mask(rows: Sequence[int], n: int) -> BoolArray:
    """Return `[n]`, true at some rows."""
    mask = np.zeros(n, np.bool_)
    mask[list(rows)] = True
    return mask


def _named(codes: Any, names: list[str]) -> Any:
    """Return codes with their names as an Arrow dictionary; a negative code is null."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(names, pa.string()))


def _read_products(path: Path, rows: ProductRows) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all().combine_chunks()
    column = {name: table[name].combine_chunks() for name in table.column_names}
    n = table.num_rows
    attributes = rows.attributes = AttributeColumns(n)
    ids = column["id"].to_pylist()
    rows.free = [row for row, product_id in enumerate(ids) if product_id is None]
    rows.row_of = {product_id: row for row, product_id in enumerate(ids) if product_id is not None}
    rows.ids = [product_id or "" for product_id in ids]
    for target, name, source in (
        (rows, "versions", "version"),
        (rows, "held", "held"),
        (attributes, "version", "attributes_version"),
        (attributes, "amount", "amount_minor"),
        (attributes, "in_stock", "in_stock"),
    ):
        setattr(target, name, column[source].to_numpy(zero_copy_only=False).copy())
    for name, codes in (("currency", attributes.currencies), ("category", attributes.categories)):
        coded = column[name]
        setattr(attributes, name, coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32))
        codes.clear()
        codes.update((value, code) for code, value in enumerate(coded.dictionary.to_pylist()))
    # The order of removal is not saved.
    rows.removed = dict.fromkeys(np.flatnonzero(~rows.held & (rows.versions > 0)).tolist())


def _describe(path: Path) -> _File:
    with path.open("rb") as file:
        return _File(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
