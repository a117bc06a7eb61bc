"""Speed and memory, each figure with the command that measures it."""
