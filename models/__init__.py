"""What is trained: backbones, the neutral block, and the methods it is compared with."""
