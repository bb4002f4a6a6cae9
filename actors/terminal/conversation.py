"""What the daemon says, as entries of a transcript view."""
