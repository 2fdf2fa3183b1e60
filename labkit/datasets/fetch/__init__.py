"""Downloads: the catalogue of data sets, HTTP, archives."""
