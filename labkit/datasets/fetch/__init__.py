"""Downloads of data sets: the catalogue, verified downloads over HTTP, unpacking of archives."""
