"""JSON as the standard has it: no NaN, no Infinity."""

import json

import pytest


def parse(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def files(folder):
    """The contents of every .json and .jsonl file of a folder, by their paths in it."""
    found = {}
    for path in folder.rglob("*.json*"):
        text = path.read_text()
        found[str(path.relative_to(folder))] = (
            [parse(line) for line in text.splitlines()] if path.suffix == ".jsonl" else parse(text)
        )
    return found
