# The transcript of a session: messages and parts as records, the rules of tool states, validation and repair.
# Imports nothing of engine but errors, ids, limits and codec.
