"""Grading untrusted notebooks: answers leave the sandbox, tests never enter it."""
