"""The segment viewer."""
