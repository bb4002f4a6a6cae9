# The durable truth: SQLite schema, migrations and synchronous store functions. Blocking by nature: called only
# from the threads of actors/_disk.py. Everything here takes `now` from its caller.
