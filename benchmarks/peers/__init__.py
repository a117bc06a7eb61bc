"""The same work in other libraries: `compare` has them do it, and each `with_` file is one of them."""
