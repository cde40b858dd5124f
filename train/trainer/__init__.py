"""The training loop, what it draws and what it leaves."""
