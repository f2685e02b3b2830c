"""What is sold, and to whom: each process's copy of the catalog, and changes of it."""
