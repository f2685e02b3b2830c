"""What leaves the server, in the words of the contract: shared by the admin API and the commands."""
