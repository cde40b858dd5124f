"""What the rules of the workflow know beside the config: where results lie, and what makes them new."""
