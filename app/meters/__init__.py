"""A process's own numbers: counted where things happen, and shared with the other processes of the machine."""
