"""Paired comparisons with seeds: studies, their runs, records and verdicts, and what runs cost."""
