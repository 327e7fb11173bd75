"""The client's end of the protocol, and a server for one run."""
