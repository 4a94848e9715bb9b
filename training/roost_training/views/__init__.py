"""Random views of images: what may be changed, the drawing of it, and the changes."""
