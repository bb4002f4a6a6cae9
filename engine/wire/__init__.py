# The wire contract as rules: frames (JSON-RPC envelopes), methods (parameters and their bounds), objects (records
# as clients see them), handles (names of strings that were cut). PROTOCOL.md in this folder is its text; a test
# holds the two against each other. Imports everything of engine but storage; knows no socket.
