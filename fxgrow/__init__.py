"""Grow trained PyTorch models: wider, same function, ready to train on."""
