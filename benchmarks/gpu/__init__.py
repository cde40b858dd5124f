"""What a GPU has to show, as one program: every model stage is right, how fast it is, and a real run."""
