# Screens and widgets, on Textual. Imported inside functions only: it takes a quarter of a second.
