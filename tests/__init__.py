"""The promises. contract/ runs on both engines over real sockets; the other folders mirror the code."""
