"""pg_catalog and information_schema: tables computed from the catalog, and the functions that clients call on them."""
