"""What is written for others to use: music files with their provenance, and the jobs that write them."""
