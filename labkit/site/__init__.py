"""The course as a web site that needs no network: ``labkit site``."""
