"""What an instructor writes, releases and checks."""
