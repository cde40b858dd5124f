"""From shards and a pretrained model to an extended model and the evidence. `python -m train --help`."""
