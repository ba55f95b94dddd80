"""On the data path, shared by both engines: listening sockets, peers that stop reading, and how an endpoint is reached."""
