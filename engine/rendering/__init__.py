# What people see of a transcript, as rules: text to lines of a terminal, and which of these lines are kept.
# A client with a full screen holds a `view.TranscriptView` and draws the rows of its `page` by `styles.segments`; one
# that only prints feeds a `markdown.Markdown`, prints `stable` as it grows and `tail()` at the end, by `styles.ansi` or
# `plain`. A page has the same text as safe HTML by `html.Rendering`: one grammar (`blocks`, `inline`), two writers
# (`leaves`, `html_leaves`). Whatever comes from a model or a tool passes `cells.clean`, where what a terminal obeys is
# made visible. Imports nothing of engine but limits and codec; knows no terminal library: a client makes its own styles
# of `styles.Role`.
