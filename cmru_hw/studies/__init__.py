"""Studies: many networks trained over seeds and settings, and what they show together."""
