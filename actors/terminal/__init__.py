# The chat that fills a terminal. `conversation` (with `texts` and `places`) turns what the daemon says into entries of a
# transcript view and knows neither trio nor a screen; `talk` is the client's side, on trio; `ui` the screens, on Textual,
# imported when they are shown; `guest` runs trio on Textual's asyncio loop, the only place where the two meet.
