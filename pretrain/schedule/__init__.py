"""Schedules: pure functions from (tasks, budget) to stages. No model, no randomness, no clock."""
