"""The ledger of experiments: studies, their runs, records and verdicts, and what runs cost."""
