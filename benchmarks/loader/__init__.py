"""Reading images from JPEG files, beside torchvision's and lightly's loaders."""
