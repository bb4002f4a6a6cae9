# The gateway: one port for HTTP and WebSocket. Layers, each importing only those before it: transport, websocket
# (all that knows trio-websocket), access, routes, http, load, watches, writer, requests, connection, listeners, port.

from actors.gateway.listeners import Address as Address
from actors.gateway.port import Gateway as Gateway
from actors.gateway.port import GatewayRef as GatewayRef
from actors.gateway.port import GatewayStatistics as GatewayStatistics
from actors.gateway.requests import Registry as Registry
from actors.gateway.requests import Services as Services
from actors.gateway.requests import Toolsets as Toolsets
