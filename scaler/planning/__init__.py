"""Signals, policy and memory -> the fleet's plan. plan.py is the whole decision on one page."""
