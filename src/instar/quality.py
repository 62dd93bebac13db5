"""Data gates: a Great Expectations suite is generated from a row type and run over a table. A fault is a named error.

The suite checks what `instar.schema.Column` declares: order of columns, no nulls, uniqueness, allowed values, ranges and text
lengths. The suite gets only the lengths of lists and maps. Pandas cannot tell NaN from null. So values that are not finite
are counted in Arrow before, and the suite checks that the counts in the column `<name>.non_finite` are 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from instar.errors import ContractError, MissingDependencyError
from instar.schema import Field, Row, describe, fields

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".non_finite"


def expectation_suite(row_type: type[Row]) -> Any:
    """Return the `ExpectationSuite` of a row type. Raises `MissingDependencyError` without the `quality` extra."""
    gx = _great_expectations()
    order = [name for field in fields(row_type) for name in _frame_columns(field)]
    expectations = [gx.expectations.ExpectTableColumnsToMatchOrderedList(column_list=order)]
    for field in fields(row_type):
        expectations += _column_expectations(gx.expectations, field)
    return gx.ExpectationSuite(name=row_type.__name__, expectations=expectations)


def run_gate(row_type: type[Row], table: pa.Table) -> dict[str, Any]:
    """Validate a table against the suite of its row type and return `{success, row_type, rows, expectations: [...]}`.

    Raise `ContractError` with the columns and expectations that failed. Wrong columns or types fail before the suite runs.
    """
    _check_columns(row_type, table)
    gx, suite = _great_expectations(), expectation_suite(row_type)
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(enable=False)
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset(row_type.__name__)
    definition = gx.ValidationDefinition(
        name=row_type.__name__,
        data=asset.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(suite),
    )
    definition = context.validation_definitions.add(definition)
    result = definition.run(batch_parameters={"dataframe": _frame(row_type, table)}, result_format="BASIC")
    outcomes = [_outcome(entry) for entry in result.results]
    failed = [outcome for outcome in outcomes if not outcome["success"]]
    if failed or not result.success:
        raise ContractError(
            expected="; ".join(sorted({_declared(row_type, f["column"]) for f in failed})),
            found="; ".join(f"{f['column']}: {f['expectation']} failed ({f['detail']})" for f in failed),
            where=f"{row_type.__name__}:{failed[0]['column'] if failed else 'table'}",
            action="fix the stage that wrote the table",
        )
    return {"success": True, "row_type": row_type.__name__, "rows": table.num_rows, "expectations": outcomes}


def run_gate_parts(row_type: type[Row], parts: Iterable[pa.Table]) -> dict[str, Any]:
    """Validate a table that comes in parts, and return what `run_gate` returns for the whole. Memory holds one part.

    Values of unique columns are compared between the parts by 64-bit hashes.
    """
    import pandas as pd

    report: dict[str, Any] = {}
    hashes: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(row_type) if field.column.unique}
    for part in parts:
        outcome = run_gate(row_type, part)
        report = {**outcome, "rows": report.get("rows", 0) + outcome["rows"]}
        for name, known in hashes.items():
            known.append(pd.util.hash_array(part.column(name).to_numpy()))
    for name, known in hashes.items():
        values = np.concatenate(known) if known else np.empty(0)
        repeated = len(values) - len(np.unique(values))
        if repeated:
            raise ContractError(
                expected=_declared(row_type, name),
                found=f"{repeated} repeated values between parts of the table",
                where=f"{row_type.__name__}:{name}",
                action="fix the stage that wrote the table",
            )
    return report


def _great_expectations() -> Any:
    try:
        import great_expectations
    except ImportError as error:
        raise MissingDependencyError(
            expected="great-expectations", found=str(error), where="instar.quality", action="install instar[quality]"
        ) from error
    return great_expectations


def _has_floats(arrow: pa.DataType) -> bool:
    inner = arrow.value_type if pa.types.is_list(arrow) else arrow.item_type if pa.types.is_map(arrow) else arrow
    return bool(pa.types.is_floating(inner))


def _is_nested(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_list(arrow) or pa.types.is_map(arrow))


def _frame_columns(field: Field) -> list[str]:
    return [field.name, field.name + SUFFIX] if _has_floats(field.arrow) else [field.name]


def _column_expectations(expectations: Any, field: Field) -> list[Any]:
    """Return the expectations for one declared column."""
    name, column, out = field.name, field.column, []
    if not field.nullable:
        out.append(expectations.ExpectColumnValuesToNotBeNull(column=name))
    if column.unique:
        out.append(expectations.ExpectColumnValuesToBeUnique(column=name))
    if column.one_of is not None:
        out.append(expectations.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.one_of)))
    if column.min_length is not None:
        out.append(expectations.ExpectColumnValueLengthsToBeBetween(column=name, min_value=column.min_length))
    if column.ge is not None or column.le is not None:
        out.append(expectations.ExpectColumnValuesToBeBetween(column=name, min_value=column.ge, max_value=column.le))
    if _has_floats(field.arrow):
        out.append(expectations.ExpectColumnValuesToBeInSet(column=name + SUFFIX, value_set=[0]))
    return out


def _check_columns(row_type: type[Row], table: pa.Table) -> None:
    """Raise `ContractError` when a column is missing, unknown or of another Arrow type."""
    declared = {field.name: field.arrow for field in fields(row_type)}
    actual = {name: table.schema.field(name).type for name in table.schema.names}
    wrong = sorted(name for name in declared | actual if declared.get(name) != actual.get(name))
    if wrong or len(table.schema.names) != len(declared):
        raise ContractError(
            expected=f"columns {', '.join(f'{n}: {declared[n]}' for n in wrong if n in declared) or list(declared)}",
            found=", ".join(f"{n}: {actual.get(n, 'missing')}" for n in wrong) or f"{table.schema.names}",
            where=f"{row_type.__name__}:{wrong[0] if wrong else 'columns'}",
            action=f"write the table from {row_type.__name__} rows",
        )


def _frame(row_type: type[Row], table: pa.Table) -> pd.DataFrame:
    """Return the table in pandas: scalars as they are, the lengths of nested columns, and counts of non-finite values."""
    import pandas as pd

    data: dict[str, Any] = {}
    for name, field in ((name, f) for name in table.schema.names for f in fields(row_type) if f.name == name):
        values = table.column(name).combine_chunks()
        data[name] = (_lengths(values) if _is_nested(field.arrow) else values).to_pandas()
        if _has_floats(field.arrow):
            data[name + SUFFIX] = _non_finite(values)
    return pd.DataFrame(data)


def _lengths(values: pa.Array) -> pa.Array:
    """Return the number of entries per row of a list or map column; null stays null."""
    return pa.array(np.diff(values.offsets.to_numpy()), mask=values.is_null().to_numpy(zero_copy_only=False))


def _non_finite(values: pa.Array) -> np.ndarray:
    """Return per row how many values are NaN or infinite; nulls are not counted here."""
    if not _is_nested(values.type):
        return _infinite_or_nan(values).astype(np.int64)
    start, end = values.offsets.to_numpy()[:-1], values.offsets.to_numpy()[1:]
    total = np.concatenate(
        [[0], np.cumsum(_infinite_or_nan(values.items if pa.types.is_map(values.type) else values.values))]
    )
    return np.asarray(total[end] - total[start], dtype=np.int64)


def _infinite_or_nan(values: pa.Array) -> np.ndarray:
    finite = np.isfinite(values.fill_null(0.0).to_numpy(zero_copy_only=False))
    return np.asarray(~finite, dtype=bool)


def _outcome(entry: Any) -> dict[str, Any]:
    """Return one expectation result as compact JSON."""
    column = str(entry.expectation_config.kwargs.get("column", "table"))
    facts = entry.result or {}
    detail = f"{facts.get('unexpected_count', '?')} values, for example {facts.get('partial_unexpected_list', [])[:3]}"
    if entry.exception_info and entry.exception_info.get("raised_exception"):
        detail = str(entry.exception_info.get("exception_message"))
    outcome = {
        "column": column.removesuffix(SUFFIX),
        "expectation": entry.expectation_config.type,
        "success": bool(entry.success),
    }
    if column.endswith(SUFFIX):
        outcome["expectation"] = "expect_column_values_to_be_finite"
    return outcome if entry.success else {**outcome, "detail": detail}


def _declared(row_type: type[Row], column: str) -> str:
    field = next((f for f in fields(row_type) if f.name == column), None)
    return f"{column}: {describe(field)}" if field else f"columns of {row_type.__name__} in order"
