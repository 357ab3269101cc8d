"""Sets of names of torch operations."""


def named(text: str) -> frozenset[str]:
    """Split a text at its spaces into a set of operation names."""
    return frozenset(text.split())


MEMORY = named("data_ptr untyped_storage storage _typed_storage cuda_array_interface")
"""Operations that give access to a tensor's memory. A value computed from an address has no derivative and differs
between passes."""
