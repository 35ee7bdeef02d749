"""SQL text to parsed statements."""

from services.storage.sql.parse.parser import parse
from services.storage.sql.parse.statement import Kind, Statement

__all__ = ["Kind", "Statement", "parse"]
