# The chat that fills a terminal. `conversation` (with `texts`, `places` and `cache`) turns what the daemon says into
# entries of a transcript view and knows neither trio nor a screen; `talk` is the client's side, on trio; `ui` has the
# screens, on Textual, and is imported when they are shown; `guest` runs trio on Textual's asyncio loop: nobody else
# knows both.
