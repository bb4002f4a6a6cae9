# actors holds the life of greenroom: everything that waits, owns a nursery or can be cancelled. A module here
# imports only those above it in the order that scripts/import_rules.py lists, and never the package itself.
