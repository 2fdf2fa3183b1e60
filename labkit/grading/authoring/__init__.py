"""Definition, release and validation of assignments."""
