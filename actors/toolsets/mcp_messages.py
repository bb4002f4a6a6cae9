"""Messages of a tool server as the official client's dispatcher takes them."""

from __future__ import annotations

from typing import Any

from engine.mcp.reading import read_message


def message_of(data: bytes) -> Any:
    """The line as a message. Raises NoMessage.

    Made without the client's own validation, which takes a second for a message of 1 MiB and looks at nothing that is
    used unseen here.
    """
    return made(read_message(data))


def made(message: dict[str, Any]) -> Any:
    """Of what read_message gives."""
    import mcp_types as types

    if "method" in message:
        kind = types.JSONRPCRequest if "id" in message else types.JSONRPCNotification
        return kind.model_construct(jsonrpc="2.0", **({"params": None} | message))
    if "error" in message:
        error = message["error"]
        told = types.ErrorData.model_construct(code=error["code"], message=error["message"])
        return types.JSONRPCError.model_construct(jsonrpc="2.0", id=message["id"], error=told)
    return types.JSONRPCResponse.model_construct(jsonrpc="2.0", id=message["id"], result=message["result"])
