# The kinds of toolsets that there are, and how the configured ones are made.
from __future__ import annotations

from actors.toolsets.configured import make_toolsets as make_toolsets
