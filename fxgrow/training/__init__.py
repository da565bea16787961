"""Training through growth: parameter groups, learning rates by age, optimizer state, vitality."""
