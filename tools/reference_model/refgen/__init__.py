"""Text generator of Harrow's reference models: standard library only, deterministic from a seed."""
