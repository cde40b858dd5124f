"""What a run is: its options, and models loaded, saved, exported and sampled."""
