"""What people see of a run: the plan, progress, and the summary."""
