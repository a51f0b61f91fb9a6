"""The language of `--where`: a part of that of pandas, of which each answer depends on one clip alone.

Nothing is executed: an expression is parsed, and each of its nodes is looked up here.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from slm.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_METHODS = ("isna", "notna", "isin", "between", "abs", "round", "astype(float)")
_OF_TEXT = ("contains", "startswith", "endswith", "match", "fullmatch", "lower", "upper", "strip", "len", "count")
_KNOWN = f"comparisons, and, or, not, in, arithmetic, {', '.join(_METHODS)} and str.{', str.'.join(_OF_TEXT)}"
_QUOTED = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`([^`]*)`""")


def holds(where: str, table: pa.Table) -> np.ndarray:
    """Of which rows the expression holds `[rows]`. A name in backticks may have any letters.

    What is missing equals nothing and is neither above nor below. UsageError for what is not of this language or does
    not say yes or no.
    """
    import pandas as pd

    columns = [name for name in table.column_names if name != "codes"]
    nullable = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype()}
    frame = table.select(columns).to_pandas(types_mapper=nullable.get)
    names: dict[str, str] = {}
    try:
        parsed = ast.parse(_unquoted(where, names).strip(), mode="eval")
        return _Rows(frame, names).truth(parsed.body).to_numpy()
    except Exception as error:  # whatever Python and pandas make of it
        complaint = " ".join(str(getattr(error, "msg", error)).split()) or type(error).__name__
        raise UsageError(f"--where {where!r} cannot be evaluated: {complaint}") from None


def _unquoted(where: str, names: dict[str, str]) -> str:
    """The expression with words for the names in backticks, which are noted in `names`."""

    def word(found: re.Match[str]) -> str:
        if found[1]:
            return found[1]
        names[made := f"quoted_{found[2].encode().hex()}"] = found[2]
        return made

    return _QUOTED.sub(word, where)


class _Rows:
    """Evaluates an expression over the rows of a table."""

    def __init__(self, frame: pd.DataFrame, names: dict[str, str]):
        self.frame, self.names = frame, names

    def truth(self, node: ast.expr) -> pd.Series:
        """Whether it holds, of each row."""
        match node:
            case ast.BoolOp(op, values):
                return reduce(operator.and_ if isinstance(op, ast.And) else operator.or_, map(self.truth, values))
            case ast.BinOp(left, ast.BitAnd() | ast.BitOr() as op, right):
                both = self.truth(left), self.truth(right)
                return operator.and_(*both) if isinstance(op, ast.BitAnd) else operator.or_(*both)
            case ast.UnaryOp(ast.Not() | ast.Invert(), value):
                return ~self.truth(value)
            case ast.Compare(left, ops, others):
                pairs = zip(pairwise([left, *others]), ops, strict=True)
                return reduce(operator.and_, [self._compared(*pair, op) for pair, op in pairs])
        found = self.value(node)
        if str(getattr(found, "dtype", "")) == "object":  # text methods leave what is missing as it is
            found = found.fillna(False).infer_objects()
        if str(getattr(found, "dtype", "")) not in ("bool", "boolean"):
            raise ValueError(f"`{ast.unparse(node)}` does not say yes or no of each clip: compare it, as in x == 'y'")
        return found.fillna(False).astype(bool)

    def _compared(self, left: ast.expr, right: ast.expr, op: ast.cmpop) -> pd.Series:
        a = self.value(left)
        if isinstance(op, ast.In | ast.NotIn):
            among = _literal(right)
            held = a.isin(among)
            return held if isinstance(op, ast.In) else ~held
        if type(op) not in _COMPARE:
            raise ValueError("`is` is not known: use == or isna()")
        try:
            held = _COMPARE[type(op)](a, self.value(right))
        except TypeError as error:
            raise ValueError(f"{error}; numbers of a CSV are text: snr.astype(float) > 1") from None
        if isinstance(held, bool):
            raise ValueError(f"`{ast.unparse(left)}` does not say yes or no of each clip: compare a column")
        return held.fillna(isinstance(op, ast.NotEq)).astype(bool)

    def value(self, node: ast.expr) -> Any:
        """A column, or what is made of columns, or a constant."""
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                if (column := self.names.get(name, name)) not in self.frame.columns:
                    raise ValueError(f"there is no column {column!r}{did_you_mean(column, list(self.frame.columns))}")
                return self.frame[column]
            case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self.value(left), self.value(right))
            case ast.UnaryOp(ast.USub(), value):
                return -self.value(value)
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp(ast.Not() | ast.Invert(), _):
                return self.truth(node)
            case ast.Call(ast.Attribute(of, "astype"), [ast.Name("float")], []):
                column = self.value(of)
                return column.mask(column == "").astype(float)  # cells of a CSV
            case ast.Call(ast.Attribute(ast.Attribute(of, "str"), name), given, named) if name in _OF_TEXT:
                return _called(self.value(of).str, name, given, named)
            case ast.Call(ast.Attribute(of, name), given, named) if name in _METHODS:
                return _called(self.value(of), name, given, named)
        raise ValueError(f"`{ast.unparse(node)}` is not known, or not of one clip alone; there are {_KNOWN}")


def _called(on: Any, method: str, given: list[ast.expr], named: list[ast.keyword]) -> Any:
    return getattr(on, method)(*map(_literal, given), **{str(word.arg): _literal(word.value) for word in named})


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"`{ast.unparse(node)}` stands where only text, numbers and lists of them can") from None
