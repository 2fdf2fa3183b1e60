"""A model that answers in a page of the site, without a server: ``<labkit-live>``."""
