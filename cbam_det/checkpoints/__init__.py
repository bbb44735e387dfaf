"""Read, check, convert and write weights."""
