"""What a run can train, one file each."""
