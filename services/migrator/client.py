"""What other services see of the migrator: the warehouse that it moves rows to.

Owns nothing: readers of the warehouse may as well ask `orbit.chassis.iceberg.configured` themselves.
"""

from __future__ import annotations

from orbit.chassis.iceberg.configured import warehouse_settings

__all__ = ["warehouse_settings"]
