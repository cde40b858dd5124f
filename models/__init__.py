"""What is trained: backbones (others' are read as data), the neutral block, and the methods beside it."""
