"""The suite that proves anysoft, the oracle it is measured against, and the command line."""
