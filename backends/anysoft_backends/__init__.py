"""One small adapter a framework: what it does better than the generic implementation, and how that is known."""
