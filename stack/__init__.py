"""Runs all of Tokentill on one machine: real Postgres and Redis from wheels, web, worker, beat, flower."""
