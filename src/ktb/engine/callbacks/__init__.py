"""What happens beside training and scoring, one callback a module; metrics_file is a logger."""
