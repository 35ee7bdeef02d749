"""The commands of the Redis door, a module for each family. `table.COMMANDS` holds them all."""
