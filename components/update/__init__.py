"""The update stage: scored rollouts in, a better policy out."""
