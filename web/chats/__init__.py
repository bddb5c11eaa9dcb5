"""What visitors and models said, kept: a tree of messages for each chat."""
