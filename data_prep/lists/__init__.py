"""Lists for training and dev, of teacher scores or of graded labels; calibration of scores."""
