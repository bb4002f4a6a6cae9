"""What the Model Context Protocol needs beyond the official client, without I/O: lines that are bounded while they
arrive, and long strings of them as text or bytes, piece by piece."""
