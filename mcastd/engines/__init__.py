"""What is received, handed to a distributed engine: at least once, whatever dies meanwhile."""
