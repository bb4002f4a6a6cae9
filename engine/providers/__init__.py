# Model services without I/O: encoders from transcript records to request bodies, and decoders from response
# bytes to the events of base.py. Who waits for sockets is actors/models.py.
