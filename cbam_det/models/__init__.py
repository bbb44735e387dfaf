"""Everything that a config builds."""
