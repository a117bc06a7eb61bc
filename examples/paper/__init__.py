"""The paper's tables 1 and 2, beside what this library reaches: python -m examples.paper --help."""
