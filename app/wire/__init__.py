"""Answers in the words of the wire contract, shared by the API, the commands and the console."""
