"""Multiple-choice questions: the tasks, their question sets, and how they are scored."""
