# One run: its life cycle, events, replay log, retention after its end, and the logic of a turn.
# Imports errors, ids, limits, codec, engine.transcript, and the types of engine.providers and engine.tools.
