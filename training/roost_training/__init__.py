"""The offline half of Roost: from a folder of images to a trained encoder and its clusters."""
