"""On the data path, shared by both engines: listening sockets, TLS towards endpoints, peers that stop reading."""
