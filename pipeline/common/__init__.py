"""What both wings use: command lines, options, files, ledgers, and one engine for many items."""
