"""Bound expressions in Python, with PostgreSQL's exact meaning: point plans, defaults, CHECK, small results."""

from services.storage.sql.evaluate import (
    arrays,
    casts,
    date_parts,
    dates,
    formatting,
    numbers,
    numerics,
    patterns,
    session_functions,
    strings,
)
from services.storage.sql.evaluate.compiler import Evaluate, can_evaluate, evaluator, fold, tuple_evaluator
from services.storage.sql.evaluate.context import EvaluationContext, NoSequences, Sequences

_REGISTERED = (arrays, casts, date_parts, dates, formatting, numbers, numerics, patterns, session_functions, strings)
"""Modules that fill the registry when they are imported."""

__all__ = [
    "Evaluate",
    "EvaluationContext",
    "NoSequences",
    "Sequences",
    "can_evaluate",
    "evaluator",
    "fold",
    "tuple_evaluator",
]
