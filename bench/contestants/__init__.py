"""The sides of a comparison, each in a process of its own with its own dependencies, answering the same jobs."""
