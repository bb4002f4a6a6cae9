# What people see of a transcript, as rules: text to lines of a terminal, and which of these lines are kept.
# Imports nothing of engine but limits; knows no terminal library: a client makes its own styles of `styles`.
