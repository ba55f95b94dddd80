"""HTTP/1 without I/O, for both engines: heads are judged, chunks decoded, requests kept apart from bytes alone."""
