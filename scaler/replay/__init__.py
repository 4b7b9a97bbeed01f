"""Recorded snapshots through the same plan() that serves."""
