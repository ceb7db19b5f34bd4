"""The rest of the family, a module for each concept: its cases, its truths, and the subjects that they make."""
