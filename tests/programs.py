"""Traced programs, walked equation by equation, with all programs within."""

from collections import Counter

LOOPS = {"scan", "while"}

# What jax lowers to LAPACK or to FFTs on a CPU.
LIBRARY = {
    *("cholesky", "cholesky_update", "eig", "eigh", "fft", "geqp3", "geqrf", "hessenberg", "householder_product", "lu"),
    *("lu_pivots_to_permutation", "ormqr", "qr", "schur", "svd", "symmetric_product", "sytrf", "triangular_solve"),
    *("tridiagonal", "tridiagonal_solve"),
}


def _jaxprs(value):
    """The programs within a parameter of an equation."""
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _jaxprs(value.jaxpr)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _jaxprs(part)


def _within(equation, but_for=()):
    """The programs within an equation, without the branches for these platforms."""
    programs = [inner for value in equation.params.values() for inner in _jaxprs(value)]
    platforms = equation.params.get("branches_platforms") or [None] * len(programs)
    return [p for p, names in zip(programs, platforms, strict=True) if names is None or not set(names) <= set(but_for)]


def equations(jaxpr, in_loop=False, but_for=()):
    """Each equation of a jaxpr and of those within, with whether it is in a loop; not of branches for platforms."""
    for equation in jaxpr.eqns:
        yield equation, in_loop
        for inner in _within(equation, but_for):
            yield from equations(inner, in_loop or equation.primitive.name in LOOPS, but_for)


def executions(jaxpr, name):
    """How often a primitive is executed, by the first axis of its operand; of branches those of the last count."""
    found = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            found[equation.invars[0].aval.shape[0]] += 1
        inner = [executions(program, name) for program in _within(equation)]
        if equation.primitive.name == "cond":
            inner = inner[-1:]
        assert equation.primitive.name != "while" or not any(inner), "nobody knows how often a while goes round"
        for counted in inner:
            for size, times in counted.items():
                found[size] += times * equation.params.get("length", 1)
    return found


def library_calls_in_loops(jaxpr):
    """Names of the calls, in loops, of LAPACK and FFTs."""
    return [e.primitive.name for e, in_loop in equations(jaxpr) if in_loop and e.primitive.name in LIBRARY]
