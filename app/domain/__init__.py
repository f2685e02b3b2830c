"""Pure rules of the business: amounts, prices, wallet decisions, errors. Standard library only."""
