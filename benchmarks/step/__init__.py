"""One training step, augmentation in and out, beside the same network in PyTorch."""
