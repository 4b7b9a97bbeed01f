"""Corrections, one file each: what of a reading is the service's own."""
