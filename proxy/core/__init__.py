"""What a proxy decides, from bytes, numbers and `now`: no engine, no sockets, no clock of its own."""
