"""The REST API: decodes a request, authenticates it, calls one service, and answers in the envelope."""
