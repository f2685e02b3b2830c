"""The REST side: decode, authenticate, call one service, answer in the envelope."""
