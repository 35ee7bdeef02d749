"""Data definition: statements that change the catalog, inside the transaction that runs them."""
