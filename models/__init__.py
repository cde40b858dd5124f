"""What is trained: backbones, read as data where they are from elsewhere, the neutral block, and the methods it is
compared with."""
