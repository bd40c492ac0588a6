"""The objects of the API server as they were last known, in a file, for a start while the server does not answer."""
