"""ScaledObject files -> findings: what would not do what it seems to, each with its line and what to write instead."""
