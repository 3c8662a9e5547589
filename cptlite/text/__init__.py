"""Prompts to text features: laid out as data, planned, encoded by the packed path or its slow twin."""
