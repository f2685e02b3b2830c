"""What is sold, and to whom: its copy in each process, and changing it."""
