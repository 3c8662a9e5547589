"""Runs: rows are drawn, learned from, evaluated and filed."""
