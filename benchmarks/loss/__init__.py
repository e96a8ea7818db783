"""Speed and memory of the contrastive losses, beside those of other libraries."""
