"""Traced programs, walked equation by equation, with all programs within."""

LOOPS = {"scan", "while"}


def _jaxprs(value):
    """The programs within a parameter of an equation."""
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _jaxprs(value.jaxpr)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _jaxprs(part)


def equations(jaxpr, in_loop=False):
    """Each equation of a jaxpr and of those within, with whether it is in a loop."""
    for equation in jaxpr.eqns:
        yield equation, in_loop
        for value in equation.params.values():
            for inner in _jaxprs(value):
                yield from equations(inner, in_loop or equation.primitive.name in LOOPS)
