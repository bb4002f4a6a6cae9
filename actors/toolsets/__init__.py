# The kinds of toolsets: what stands behind a toolset actor. Nothing is re-exported.
