"""On the data path, for both engines: listening sockets, peers that stop reading, and how an endpoint is reached."""
