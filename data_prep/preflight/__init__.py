"""What is checked, and what is counted, before the first stage."""
