"""`make bench`: each module here measures one of our contenders against a named baseline; harness.py says how."""
