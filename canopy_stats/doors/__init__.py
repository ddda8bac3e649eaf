"""What people already have, in and out: other engines' rollouts and logs, evaluation scores, data sets."""
