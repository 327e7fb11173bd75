"""The client's end of the protocol, and a server for one run (src/client/local_server.py)."""

from src.client.connection import (
    PromptRefused,
    ServerError,
    ServerUnreachable,
    VerifierError,
)
from src.client.server_client import ServerClient

__all__ = ["PromptRefused", "ServerClient", "ServerError", "ServerUnreachable", "VerifierError"]
