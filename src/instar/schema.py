"""Derives an Arrow schema, a fast check and a documentation table from a row dataclass.

`instar.quality` generates the Great Expectations suite of the data gates from the same declaration.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instar.errors import ContractError


@dataclass(frozen=True, slots=True)
class Column:
    """Documentation and constraints of one column. Constraints ignore nulls. A column may be null if its type has `| None`."""

    doc: str
    ge: float | None = None
    le: float | None = None
    one_of: tuple[str, ...] | None = None
    unique: bool = False
    finite: bool = False
    min_length: int | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """A resolved column: name, Arrow type, nullability and constraints. A list of rows has its columns in `inner`."""

    name: str
    arrow: pa.DataType
    nullable: bool
    column: Column
    inner: tuple[Field, ...] = ()


class Row(Protocol):
    """Any row dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Row)
_SCALARS: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(hint: Any) -> tuple[pa.DataType, bool]:
    """Return the Arrow type of a type hint and whether it may be null."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        return _arrow_type(inner[0])[0], True
    if hint in _SCALARS:
        return _SCALARS[hint], False
    if get_origin(hint) is list:
        return pa.list_(_arrow_type(get_args(hint)[0])[0]), False
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return pa.map_(_arrow_type(key)[0], _arrow_type(value)[0]), False
    if dataclasses.is_dataclass(hint):
        return pa.struct([(f.name, f.arrow) for f in fields(hint)]), False  # type: ignore[arg-type]
    raise TypeError(f"no Arrow type for {hint!r}")


@cache
def fields(row: type[Row]) -> tuple[Field, ...]:
    """Return the resolved columns of a row type in declaration order."""
    hints = get_type_hints(row, include_extras=True)
    out = []
    for field in dataclasses.fields(row):
        hint = hints[field.name]
        column = next(a for a in get_args(hint) if isinstance(a, Column))
        arrow, nullable = _arrow_type(hint)
        items = [a for a in get_args(get_args(hint)[0]) if isinstance(a, type) and dataclasses.is_dataclass(a)]
        out.append(Field(field.name, arrow, nullable, column, fields(items[0]) if items else ()))
    return tuple(out)


def arrow_schema(row: type[Row]) -> pa.Schema:
    """Return the Arrow schema of a row type; column documentation is field metadata."""
    return pa.schema([pa.field(f.name, f.arrow, f.nullable, {"doc": f.column.doc}) for f in fields(row)])


def to_table(row: type[R], rows: Iterable[R]) -> pa.Table:
    """Build a checked Arrow table from row instances."""
    items = list(rows)
    columns = []
    for field in fields(row):
        values: list[Any] = [getattr(item, field.name) for item in items]
        if pa.types.is_list(field.arrow) and pa.types.is_struct(field.arrow.value_type):
            names = [child.name for child in field.arrow.value_type]
            values = [steps and [{n: getattr(step, n) for n in names} for step in steps] for steps in values]
        elif pa.types.is_map(field.arrow):
            values = [None if mapping is None else list(mapping.items()) for mapping in values]
        columns.append(pa.array(values, type=field.arrow))
    table = pa.Table.from_arrays(columns, schema=arrow_schema(row))
    check(row, table, where=row.__name__)
    return table


def from_table(row: type[R], table: pa.Table) -> Iterator[R]:
    """Yield row instances. Lists of structs become lists of their dataclass, and maps become dicts."""
    hints = get_type_hints(row)
    converted = []
    for field in fields(row):
        values = table.column(field.name).to_pylist()
        if pa.types.is_map(field.arrow):
            values = [dict(v) for v in values]
        elif pa.types.is_list(field.arrow) and pa.types.is_struct(field.arrow.value_type):
            inner = get_args(hints[field.name])[0]
            values = [[inner(**step) for step in steps] for steps in values]
        converted.append(values)
    names = [f.name for f in fields(row)]
    for values in zip(*converted, strict=True):
        yield row(**dict(zip(names, values, strict=True)))


def check(row: type[Row], table: pa.Table, where: str, columns: Sequence[str] | None = None) -> None:
    """Raise `ContractError` with the first column that breaks the declaration of `row`. `columns` are those of the table, if it has
    a part of them only."""
    declared = fields(row) if columns is None else [field for field in fields(row) if field.name in columns]
    expected = pa.schema([(field.name, field.arrow) for field in declared])
    if table.schema.names != expected.names:
        missing = [n for n in expected.names if n not in table.schema.names]
        extra = [n for n in table.schema.names if n not in expected.names]
        raise ContractError(
            expected=f"columns {expected.names}",
            found=f"missing columns {missing}, unknown columns {extra}",
            where=where,
            action=f"write the table from {row.__name__} rows",
        )
    for field in declared:
        problem = _problem(field, table.column(field.name).combine_chunks())
        if problem:
            raise ContractError(
                expected=describe(field),
                found=problem,
                where=f"{where}:{field.name}",
                action="fix the stage that wrote it",
            )


def _problem(field: Field, values: pa.Array) -> str | None:
    if values.type != field.arrow:
        return f"type {values.type}"
    if not field.nullable and values.null_count:
        return f"{values.null_count} nulls"
    column = field.column
    present = values.drop_null()
    if column.unique and len(present.unique()) != len(present):
        return "repeated values"
    if column.one_of is not None:
        wrong = sorted(set(present.unique().to_pylist()) - set(column.one_of))
        if wrong:
            return f"values {wrong[:3]}"
    if column.min_length is not None and len(present):
        shortest = pc.call_function("min_max", [pc.call_function("utf8_length", [present])])["min"].as_py()
        if shortest < column.min_length:
            return f"a text of length {shortest}"
    if pa.types.is_list(present.type) or pa.types.is_map(present.type):
        return _nested_problem(field, present)
    return _numeric_problem(column, present)


def _nested_problem(field: Field, present: pa.Array) -> str | None:
    """Check the items of lists and the values of maps.

    They may not be null, numbers must be finite, and rows inside lists must be as declared.
    """
    items = present.items if pa.types.is_map(present.type) else present.flatten()
    if items.null_count:
        return f"{items.null_count} nulls among the items"
    for child in field.inner:
        problem = _problem(child, items.field(child.name))
        if problem:
            return f"{problem} in '{child.name}'"
    if pa.types.is_floating(items.type) and not np.isfinite(items.to_numpy(zero_copy_only=False)).all():
        return "a value that is not finite"
    return None


def _numeric_problem(column: Column, present: pa.Array) -> str | None:
    if not (pa.types.is_floating(present.type) or pa.types.is_integer(present.type)) or not len(present):
        return None
    array = present.to_numpy(zero_copy_only=False)
    if column.finite and not np.isfinite(array).all():
        return f"{int((~np.isfinite(array)).sum())} values that are not finite"
    if column.ge is not None and not bool((array >= column.ge).all()):
        return f"minimum {array.min()}"
    if column.le is not None and not bool((array <= column.le).all()):
        return f"maximum {array.max()}"
    return None


def describe(field: Field) -> str:
    """Return one line that states the type and constraints of a column."""
    column, parts = field.column, [str(field.arrow)]
    parts += ["nullable"] if field.nullable else []
    parts += [f">= {column.ge:g}"] if column.ge is not None else []
    parts += [f"<= {column.le:g}"] if column.le is not None else []
    parts += ["one of " + "/".join(column.one_of)] if column.one_of else []
    parts += ["unique"] if column.unique else []
    parts += ["finite"] if column.finite else []
    parts += [f"length >= {column.min_length}"] if column.min_length else []
    return ", ".join(parts)


def markdown(row: type[Row]) -> str:
    """Return the documentation table of a row type."""
    lines: Sequence[str] = [f"| `{f.name}` | {describe(f)} | {f.column.doc} |" for f in fields(row)]
    return "\n".join(["| column | type and constraints | meaning |", "|---|---|---|", *lines])
