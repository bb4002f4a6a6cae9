# engine holds the rules of greenroom: data and `now` go in, data comes out. It never imports trio or
# actors, starts no thread and reads no clock, so that every rule can be tested without an event loop.
# The one package that touches the disk is engine.storage, and only actors/_disk.py calls it.
#
# Imports go one way: errors, ids, limits, codec < transcript < tools, providers, runs < wire, storage, config.
