"""Points for answers; no code of a student runs here."""
