"""Curriculum: which prompts to try next."""
