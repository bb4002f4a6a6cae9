"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# The same examples each time and everywhere: a red run can be repeated by who reads of it. To look further, say
# `--hypothesis-profile=default`: that takes new examples in each run. No example has a deadline: on a machine that has
# other work a short one takes any time.
settings.register_profile("same", derandomize=True, print_blob=True, deadline=None)
settings.load_profile("same")
