# The kinds of toolsets that there are, and how the configured ones become children of a supervisor.
from __future__ import annotations

from actors.toolsets.configured import make_toolbox as make_toolbox
