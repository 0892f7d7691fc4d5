"""What is measured of the file that would ship, one kind a file."""
