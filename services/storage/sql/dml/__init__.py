"""INSERT, UPDATE and DELETE: bound, then run through the engine's locks."""
