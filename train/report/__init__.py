"""The report, its charts, and the comparison of two runs."""
