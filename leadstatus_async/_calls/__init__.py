"""What users call, each a thin user of the engine."""
