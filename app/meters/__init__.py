"""A process's own metrics: counted where things happen, and shared with the other processes of the machine."""
