"""What methods are built from: heads, momentum copies, memories, patches, and talk between processes."""
