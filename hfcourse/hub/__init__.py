"""What leaves the machine: model cards."""
