"""Getting bytes from servers: over HTTP, and from s3:// and hf://."""
