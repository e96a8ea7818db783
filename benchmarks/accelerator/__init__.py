"""Speed, memory and accuracy on one accelerator."""
