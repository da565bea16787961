"""What is asked of modules of any kind: their tensors, what holds these, modes, devices. Knows nothing of growth."""
