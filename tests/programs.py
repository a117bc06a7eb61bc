"""Traced programs, walked equation by equation, with all programs within."""

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


def equations(jaxpr, in_loop=False):
    """Each equation of a jaxpr and of those within, with whether it is in a loop."""
    for equation in jaxpr.eqns:
        yield equation, in_loop
        for value in equation.params.values():
            for inner in _jaxprs(value):
                yield from equations(inner, in_loop or equation.primitive.name in LOOPS)


def library_calls_in_loops(jaxpr):
    """Names of the calls, in loops, of LAPACK and FFTs."""
    return [e.primitive.name for e, in_loop in equations(jaxpr) if in_loop and e.primitive.name in LIBRARY]
