"""A hash of a table's values, whatever file they lie in."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa


def table_hash(table: pa.Table) -> str:
    """SHA-256 of a table's values: independent of compression, chunks, row groups and metadata."""
    digest = hashlib.sha256()
    for field in table.schema:
        digest.update(f"{field.name}:{field.type}:{table.num_rows};".encode())
        for chunk in _column_parts(table[field.name].combine_chunks()):
            digest.update(chunk)
    return digest.hexdigest()


def _column_parts(column: pa.Array | pa.ChunkedArray) -> list[bytes]:
    """The bytes that carry a column without nulls: values, and lengths where they vary from row to row."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [part for chunk in chunks for part in _array_parts(chunk)]


def _array_parts(array: pa.Array) -> list[bytes]:
    if array.null_count:
        raise ValueError("a stored column must not hold nulls")
    if pa.types.is_string(array.type):
        offsets = np.frombuffer(array.buffers()[1] or b"\0\0\0\0", dtype=np.int32)
        offsets = offsets[array.offset:array.offset + len(array) + 1]
        text = array.buffers()[2]
        body = bytes(memoryview(text)[offsets[0]:offsets[-1]]) if text is not None and len(offsets) else b""
        return [np.diff(offsets).tobytes(), body]
    if pa.types.is_list(array.type):
        return [np.diff(array.offsets.to_numpy()).tobytes(), *_array_parts(array.flatten())]
    return [array.to_numpy(zero_copy_only=False).tobytes()]
