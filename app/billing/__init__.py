"""What a call of a service server goes through: start, end, holds, postings, settlement, debts."""
