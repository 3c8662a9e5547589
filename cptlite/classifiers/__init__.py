"""What every method ends as: scores for the classes of every task."""
